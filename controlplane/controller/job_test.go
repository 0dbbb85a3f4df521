package controller_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/controller"
	"github.com/podsnap/podsnap/controlplane/podstate"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func jobOf(name string, with func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	j.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i:1"}}
	if with != nil {
		with(&j.Spec)
	}
	return j
}

func numbered(n, parallel int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = &n, &parallel, new(batchv1.IndexedCompletion)
	}
}

func (c *cluster) job(name string) *batchv1.Job {
	c.t.Helper()
	j, err := api.Get[*batchv1.Job](c.ctx, c, api.Jobs, "default", name)
	if err != nil {
		c.t.Fatal(err)
	}
	return j
}

func (c *cluster) changeJob(name string, f func(*batchv1.JobSpec)) {
	c.t.Helper()
	_, err := api.Mutate(c.ctx, c, api.Jobs, "default", name, api.UpdateOptions{}, func(j *batchv1.Job) (bool, error) {
		f(&j.Spec)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// told is a Job's conditions that are true, with their reasons, and its numbers.
func told(j *batchv1.Job) string {
	var out []string
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type)+"="+c.Reason)
		}
	}
	slices.Sort(out)
	return fmt.Sprintf("%s active=%d succeeded=%d failed=%d", strings.Join(out, " "), j.Status.Active, j.Status.Succeeded, j.Status.Failed)
}

// becomes waits until a Job tells this.
func (c *cluster) becomes(name, want string) time.Duration {
	c.t.Helper()
	return c.eventually(name, func() error {
		if got := told(c.job(name)); got != want {
			return fmt.Errorf("%s, want %s", got, want)
		}
		return nil
	})
}

// counted checks that nothing of a finished Job waits to be counted.
func (c *cluster) counted(name string) {
	c.t.Helper()
	c.pass(time.Minute)
	j := c.job(name)
	if u := j.Status.UncountedTerminatedPods; u == nil || len(u.Failed)+len(u.Succeeded) > 0 {
		c.t.Errorf("waits to be counted: %+v", u)
	}
	for _, p := range c.pods("default") {
		if len(p.Finalizers) > 0 || !podstate.Ended(p) {
			c.t.Errorf("pod %s of a finished Job is %s and has the finalizers %v", p.Name, p.Status.Phase, p.Finalizers)
		}
	}
}

func ended(phase corev1.PodPhase, code int32) corev1.PodStatus {
	return corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
		Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}},
	}}}
}

func succeeds(*corev1.Pod) corev1.PodStatus { return ended(corev1.PodSucceeded, 0) }
func fails(*corev1.Pod) corev1.PodStatus    { return ended(corev1.PodFailed, 1) }
func runs(*corev1.Pod) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
}

func index(p *corev1.Pod) string { return p.Annotations[batchv1.JobCompletionIndexAnnotation] }

// withJob has one node whose pods fare as state says.
func withJob(t *testing.T, state func(*corev1.Pod) corev1.PodStatus, f func(*cluster)) {
	t.Helper()
	start(t, controller.Config{}, func(c *cluster) {
		c.nodeWhere("a", state)
		f(c)
	})
}

func TestJobCompletes(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = new(int32(10)), new(int32(3)) }))
		took := c.becomes("work", "Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached active=0 succeeded=10 failed=0")
		if took > 2*time.Second {
			t.Errorf("took %v for four rounds of 0.1 s", took)
		}
		c.counted("work")
		if n := c.store.creates.Load(); n != 10 {
			t.Errorf("%d pods were created, want 10", n)
		}
		j := c.job("work")
		if j.Status.StartTime == nil || j.Status.CompletionTime == nil || *j.Status.Ready != 0 || *j.Status.Terminating != 0 {
			t.Errorf("status %+v", j.Status)
		}
		if p := c.pods("default")[0]; p.Labels[batchv1.JobNameLabel] != "work" || p.Labels["job-name"] != "work" || p.Labels[batchv1.ControllerUidLabel] != string(j.UID) {
			t.Errorf("labels %v", p.Labels)
		}
	})
}

func TestJobOfAQueue(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.Parallelism = new(int32(3)) }))
		c.becomes("work", " active=3 succeeded=0 failed=0")
		c.pass(time.Second) // they run
		for i, want := range []string{" active=2 succeeded=1 failed=0", " active=1 succeeded=2 failed=0"} {
			c.finishPod(i, corev1.PodSucceeded)
			c.becomes("work", want)
			c.pass(time.Minute)
			c.becomes("work", want)
		}
		c.finishPod(2, corev1.PodSucceeded)
		c.becomes("work", "Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached active=0 succeeded=3 failed=0")
		c.counted("work")
	})
}

// finishPod ends the i-th pod.
func (c *cluster) finishPod(i int, phase corev1.PodPhase) {
	c.t.Helper()
	p := c.pods("default")[i]
	_, err := api.Mutate(c.ctx, c, api.Pods, p.Namespace, p.Name, api.UpdateOptions{Subresource: "status"}, func(o *corev1.Pod) (bool, error) {
		o.Status = ended(phase, 0)
		return true, nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestJobIndexed(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(jobOf("work", numbered(5, 2)))
		c.becomes("work", "Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached active=0 succeeded=5 failed=0")
		c.counted("work")
		if got := c.job("work").Status.CompletedIndexes; got != "0-4" {
			t.Errorf("completed %q", got)
		}
		seen := map[string]bool{}
		for _, p := range c.pods("default") {
			i := index(p)
			if seen[i] || p.Spec.Hostname != "work-"+i || p.Labels[batchv1.JobCompletionIndexAnnotation] != i || !strings.HasPrefix(p.Name, "work-"+i+"-") {
				t.Errorf("pod %s of index %s: host %s, labels %v", p.Name, i, p.Spec.Hostname, p.Labels)
			}
			seen[i] = true
			if e := p.Spec.Containers[0].Env; len(e) != 1 || e[0].Name != "JOB_COMPLETION_INDEX" {
				t.Errorf("environment %v", e)
			}
		}
		if len(seen) != 5 {
			t.Errorf("indexes %v", seen)
		}
	})
}

func TestJobBackoffLimit(t *testing.T) {
	withJob(t, fails, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.BackoffLimit = new(int32(2)) }))
		took := c.becomes("work", "Failed=BackoffLimitExceeded FailureTarget=BackoffLimitExceeded active=0 succeeded=0 failed=3")
		if took < 28*time.Second || took > 33*time.Second {
			t.Errorf("took %v, want waits of 10 s and 20 s", took)
		}
		c.counted("work")
		if n := c.store.creates.Load(); n != 3 {
			t.Errorf("%d pods were created, want 3", n)
		}
	})
}

func TestJobRestartsCount(t *testing.T) {
	again := func(*corev1.Pod) corev1.PodStatus {
		st := runs(nil)
		st.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 3}}
		return st
	}
	withJob(t, again, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.Template.Spec.RestartPolicy = new(int32(3)), corev1.RestartPolicyOnFailure
		}))
		c.becomes("work", "Failed=BackoffLimitExceeded FailureTarget=BackoffLimitExceeded active=0 succeeded=0 failed=1")
		if n := len(c.pods("default")); n != 0 {
			t.Errorf("%d pods are left of a Job that failed while they ran", n)
		}
	})
}

func TestJobBackoffLimitPerIndex(t *testing.T) {
	second := func(p *corev1.Pod) corev1.PodStatus {
		if index(p) == "1" {
			return fails(p)
		}
		return succeeds(p)
	}
	withJob(t, second, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			numbered(4, 4)(s)
			s.BackoffLimitPerIndex = new(int32(1))
		}))
		c.becomes("work", "Failed=FailedIndexes FailureTarget=FailedIndexes active=0 succeeded=3 failed=2")
		c.counted("work")
		st := c.job("work").Status
		if st.CompletedIndexes != "0,2,3" || st.FailedIndexes == nil || *st.FailedIndexes != "1" {
			t.Errorf("completed %q, failed %v", st.CompletedIndexes, st.FailedIndexes)
		}
	})
}

func TestJobMaxFailedIndexes(t *testing.T) {
	withJob(t, fails, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			numbered(10, 1)(s)
			s.BackoffLimitPerIndex, s.MaxFailedIndexes = new(int32(0)), new(int32(2))
		}))
		c.becomes("work", "Failed=MaxFailedIndexesExceeded FailureTarget=MaxFailedIndexesExceeded active=0 succeeded=0 failed=3")
		c.counted("work")
	})
}

func TestJobPodFailurePolicy(t *testing.T) {
	policy := &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
		{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
	}}
	n := 0
	state := func(*corev1.Pod) corev1.PodStatus {
		n++
		if n < 4 { // ignored, however often
			st := ended(corev1.PodFailed, 137)
			st.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
			return st
		}
		return ended(corev1.PodFailed, 42)
	}
	withJob(t, state, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.PodFailurePolicy, s.BackoffLimit = policy, new(int32(1)) }))
		c.becomes("work", "Failed=PodFailurePolicy FailureTarget=PodFailurePolicy active=0 succeeded=0 failed=1")
		c.counted("work")
		j := c.job("work")
		if m := j.Status.Conditions[0].Message; !strings.Contains(m, "failed with exit code 42 matching FailJob rule at index 1") {
			t.Errorf("message %q", m)
		}
	})
}

func TestJobFailIndex(t *testing.T) {
	state := func(p *corev1.Pod) corev1.PodStatus {
		if index(p) == "0" {
			return ended(corev1.PodFailed, 7)
		}
		return succeeds(p)
	}
	withJob(t, state, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			numbered(2, 2)(s)
			s.BackoffLimitPerIndex = new(int32(5))
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailIndex,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{ContainerName: new("c"), Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{1}},
			}}}
		}))
		c.becomes("work", "Failed=FailedIndexes FailureTarget=FailedIndexes active=0 succeeded=1 failed=1")
		c.counted("work")
	})
}

func TestJobSuccessPolicy(t *testing.T) {
	state := func(p *corev1.Pod) corev1.PodStatus {
		if index(p) == "1" || index(p) == "2" {
			return succeeds(p)
		}
		return runs(p)
	}
	withJob(t, state, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			numbered(5, 5)(s)
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{SucceededIndexes: new("0,3")}, {SucceededIndexes: new("0-2"), SucceededCount: new(int32(2))},
			}}
		}))
		c.becomes("work", "Complete=SuccessPolicy SuccessCriteriaMet=SuccessPolicy active=0 succeeded=2 failed=3")
	})
}

func TestJobDeadlineAndTTL(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			s.ActiveDeadlineSeconds, s.TTLSecondsAfterFinished = new(int64(30)), new(int32(60))
		}))
		took := c.becomes("work", "Failed=DeadlineExceeded FailureTarget=DeadlineExceeded active=0 succeeded=0 failed=1")
		if took < 29*time.Second || took > 32*time.Second {
			t.Errorf("failed after %v, want 30 s", took)
		}
		took = c.eventually("end", func() error { return errors.Join(c.gone(api.Jobs, "default"), c.gone(api.Pods, "default")) })
		if took < 58*time.Second || took > 62*time.Second {
			t.Errorf("gone after %v, want 60 s", took)
		}
	})
}

func TestJobSuspend(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			s.Suspend, s.Parallelism, s.Completions = new(true), new(int32(2)), new(int32(2))
		}))
		c.becomes("work", "Suspended=JobSuspended active=0 succeeded=0 failed=0")
		if c.job("work").Status.StartTime != nil || c.store.creates.Load() > 0 {
			t.Error("a suspended Job has begun")
		}
		c.changeJob("work", func(s *batchv1.JobSpec) { s.Suspend = new(false) })
		c.becomes("work", " active=2 succeeded=0 failed=0")
		c.changeJob("work", func(s *batchv1.JobSpec) { s.Suspend = new(true) })
		c.becomes("work", "Suspended=JobSuspended active=0 succeeded=0 failed=0") // its pods do not count
		c.eventually("pods", func() error { return c.gone(api.Pods, "default") })
	})
}

// A pod that somebody deletes counts once, and another one takes its place.
func TestJobPodDeleted(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", nil))
		c.becomes("work", " active=1 succeeded=0 failed=0")
		p := c.pods("default")[0]
		if _, err := c.Delete(c.ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.becomes("work", " active=1 succeeded=0 failed=1")
		c.pass(time.Minute)
		c.becomes("work", " active=1 succeeded=0 failed=1")
		if ps := c.pods("default"); len(ps) != 1 || ps[0].UID == p.UID {
			t.Errorf("%d pods", len(ps))
		}
	})
}

// A pod that is ending is replaced when it has ended, where the Job says so.
func TestJobReplacesFailedOnly(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		a.state = runs
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.PodReplacementPolicy = new(batchv1.Failed) }))
		c.becomes("work", " active=1 succeeded=0 failed=0")
		c.pass(time.Second)
		a.die() // it will not say how the pod has ended
		p := c.pods("default")[0]
		if _, err := c.Delete(c.ctx, api.Pods, p.Namespace, p.Name, api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.pass(3 * time.Second)
		c.becomes("work", " active=0 succeeded=0 failed=0")
		if st := c.job("work").Status; *st.Terminating != 1 || c.store.creates.Load() != 1 {
			t.Errorf("%d pods were created while one is ending: %+v", c.store.creates.Load(), st)
		}
		c.finishPod(0, corev1.PodFailed)
		c.eventually("its replacement", func() error {
			if n := c.store.creates.Load(); n != 2 {
				return fmt.Errorf("%d pods were created: %s", n, told(c.job("work")))
			}
			return nil
		})
	})
}

// Pods that match a selector of one's own become the Job's, others are let go.
func TestJobClaims(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "orphan", Labels: map[string]string{"mine": "yes"}}}
		orphan.Spec.RestartPolicy, orphan.Spec.Containers = corev1.RestartPolicyNever, []corev1.Container{{Name: "c", Image: "i"}}
		c.create(orphan)
		c.pass(time.Second)
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			s.ManualSelector, s.Selector = new(true), &metav1.LabelSelector{MatchLabels: map[string]string{"mine": "yes"}}
			s.Template.Labels = map[string]string{"mine": "yes"}
		}))
		c.becomes("work", " active=1 succeeded=0 failed=0")
		c.pass(time.Second)
		ps := c.pods("default")
		if len(ps) != 1 || !metav1.IsControlledBy(ps[0], c.job("work")) || len(ps[0].Finalizers) != 1 {
			t.Fatalf("%d pods, the first of %v with %v", len(ps), ps[0].OwnerReferences, ps[0].Finalizers)
		}
		_, err := api.Mutate(c.ctx, c, api.Pods, "default", "orphan", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
			p.Labels = nil
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.eventually("another one", func() error {
			for _, p := range c.pods("default") {
				if p.Name == "orphan" && len(p.OwnerReferences)+len(p.Finalizers) > 0 {
					return fmt.Errorf("the pod is the Job's still")
				}
			}
			if n := len(c.pods("default")); n != 2 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
	})
}

func TestJobParallelism(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", numbered(4, 4)))
		c.becomes("work", " active=4 succeeded=0 failed=0")
		c.changeJob("work", func(s *batchv1.JobSpec) { s.Parallelism, s.Completions = new(int32(2)), new(int32(2)) })
		c.becomes("work", " active=2 succeeded=0 failed=0") // those above do not count
		c.eventually("pods", func() error {
			for _, p := range c.pods("default") {
				if index(p) > "1" {
					return fmt.Errorf("pod %s is there", p.Name)
				}
			}
			return nil
		})
	})
}

// What is left of a Job does not stay for ever.
func TestJobDeleted(t *testing.T) {
	for _, p := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(p), func(t *testing.T) {
			withJob(t, runs, func(c *cluster) {
				c.create(jobOf("work", nil))
				c.becomes("work", " active=1 succeeded=0 failed=0")
				if _, err := c.Delete(c.ctx, api.Jobs, "default", "work", api.DeleteOptions{Propagation: p}); err != nil {
					t.Fatal(err)
				}
				c.eventually("end", func() error {
					if err := c.gone(api.Jobs, "default"); err != nil || p != metav1.DeletePropagationOrphan {
						return errors.Join(err, c.gone(api.Pods, "default"))
					}
					if ps := c.pods("default"); len(ps) != 1 || len(ps[0].Finalizers)+len(ps[0].OwnerReferences) > 0 {
						return fmt.Errorf("pods %v, want one without an owner and without a finalizer", ps)
					}
					return nil
				})
			})
		})
	}
}

// A pod that went with its node has failed through no fault of its own.
func TestJobNodeGone(t *testing.T) {
	start(t, controller.Config{}, func(c *cluster) {
		a := c.node("a")
		a.state = runs
		c.create(jobOf("work", func(s *batchv1.JobSpec) {
			s.BackoffLimit = new(int32(0))
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
			}}}
		}))
		c.becomes("work", " active=1 succeeded=0 failed=0")
		c.pass(time.Second)
		c.nodeWhere("b", succeeds)
		a.die()
		if _, err := c.Delete(c.ctx, api.Nodes, "", "a", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.becomes("work", "Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached active=0 succeeded=1 failed=0")
		c.counted("work")
	})
}

// While the store takes no writes nothing is lost, and nothing is counted twice.
func TestJobStoreDown(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(jobOf("work", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = new(int32(20)), new(int32(5)) }))
		for range 6 {
			c.pass(70 * time.Millisecond)
			c.store.down.Store(true)
			c.pass(330 * time.Millisecond)
			c.store.down.Store(false)
		}
		c.becomes("work", "Complete=CompletionsReached SuccessCriteriaMet=CompletionsReached active=0 succeeded=20 failed=0")
		c.counted("work")
		if n := c.store.creates.Load(); n != 20 {
			t.Errorf("%d pods were created, want 20", n)
		}
	})
}

func TestJobImmutable(t *testing.T) {
	withJob(t, runs, func(c *cluster) {
		c.create(jobOf("work", nil))
		synctest.Wait()
		j := c.job("work").DeepCopy()
		j.Spec.Template.Spec.Containers[0].Image = "other"
		j.Spec.Completions = new(int32(7))
		_, err := c.Update(c.ctx, j, api.UpdateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.template") || !strings.Contains(err.Error(), "spec.completions") {
			t.Errorf("update: %v", err)
		}
	})
}
