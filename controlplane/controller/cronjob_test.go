package controller_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// In a bubble it is midnight UTC of 2000-01-01 at the beginning.
func cronOf(schedule string, with func(*batchv1.CronJobSpec)) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tick"}}
	c.Spec.Schedule, c.Spec.TimeZone = schedule, new("UTC")
	c.Spec.JobTemplate.Labels = map[string]string{"from": "tick"}
	c.Spec.JobTemplate.Spec = jobOf("", nil).Spec
	if with != nil {
		with(&c.Spec)
	}
	return c
}

func (c *cluster) jobs() []*batchv1.Job {
	c.t.Helper()
	js, err := api.Items[*batchv1.Job](c.ctx, c, api.Jobs, api.ListOptions{Namespace: "default"})
	if err != nil {
		c.t.Fatal(err)
	}
	return js
}

func (c *cluster) cron() *batchv1.CronJob {
	c.t.Helper()
	o, err := api.Get[*batchv1.CronJob](c.ctx, c, api.CronJobs, "default", "tick")
	if err != nil {
		c.t.Fatal(err)
	}
	return o
}

// due lists the times of the Jobs that are there.
func (c *cluster) due() string {
	var out []string
	for _, j := range c.jobs() {
		at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
		if err != nil {
			c.t.Fatal(err)
		}
		out = append(out, at.UTC().Format("15:04"))
	}
	return strings.Join(out, " ")
}

func (c *cluster) wantDue(want string) {
	c.t.Helper()
	if got := c.due(); got != want {
		c.t.Fatalf("at %s: Jobs of %q, want %q", time.Now().UTC().Format("15:04:05"), got, want)
	}
}

func (c *cluster) hasEvent(reason string) {
	c.t.Helper()
	c.eventually(reason, func() error {
		es, err := api.Items[*corev1.Event](c.ctx, c, api.Events, api.ListOptions{Namespace: "default"})
		if err != nil {
			return err
		}
		for _, e := range es {
			if e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("no event %s", reason)
	})
}

func TestCronJobRunsAndForgets(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(cronOf("*/10 * * * *", nil))
		c.pass(10*time.Minute - time.Second)
		c.wantDue("")
		c.pass(2 * time.Second)
		c.wantDue("00:10")
		j := c.jobs()[0]
		if !strings.HasPrefix(j.Name, "tick-") || j.Labels["from"] != "tick" || !metav1.IsControlledBy(j, c.cron()) {
			t.Errorf("job %s, labels %v, owners %v", j.Name, j.Labels, j.OwnerReferences)
		}
		c.pass(6 * time.Hour)
		c.wantDue("05:50 06:00 06:10") // three are kept
		st := c.cron().Status
		if st.LastScheduleTime.UTC().Format("02 15:04") != "01 06:10" || st.LastSuccessfulTime.Sub(st.LastScheduleTime.Time) > 2*time.Second || len(st.Active) > 0 {
			t.Errorf("status %+v", st)
		}
		if n := c.store.creates.Load(); n != 6*6+1 {
			t.Errorf("%d pods were created in six hours, want %d", n, 6*6+1)
		}
	})
}

func TestCronJobKeepsFailed(t *testing.T) {
	withJob(t, fails, func(c *cluster) {
		c.create(cronOf("0 * * * *", func(s *batchv1.CronJobSpec) { s.JobTemplate.Spec.BackoffLimit = new(int32(0)) }))
		c.pass(5*time.Hour + time.Minute)
		c.wantDue("05:00")
		if st := c.cron().Status; st.LastSuccessfulTime != nil {
			t.Errorf("status %+v", st)
		}
	})
}

func TestCronJobConcurrency(t *testing.T) {
	for policy, want := range map[batchv1.ConcurrencyPolicy]string{
		batchv1.AllowConcurrent: "01:00 02:00 03:00", batchv1.ForbidConcurrent: "01:00", batchv1.ReplaceConcurrent: "03:00",
	} {
		t.Run(string(policy), func(t *testing.T) {
			withJob(t, runs, func(c *cluster) {
				c.create(cronOf("0 * * * *", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy }))
				c.pass(3*time.Hour + 10*time.Minute)
				c.wantDue(want)
				if n := len(c.cron().Status.Active); n != len(strings.Fields(want)) {
					t.Errorf("%d are active", n)
				}
				if policy == batchv1.ForbidConcurrent {
					c.hasEvent("JobAlreadyActive")
				}
			})
		})
	}
}

// A run that was not possible is made up for when the one before has ended, if
// there is time for it.
func TestCronJobForbidCatchesUp(t *testing.T) {
	for deadline, want := range map[int64]string{10: "01:00", 3600: "01:00 02:00"} {
		t.Run(fmt.Sprint(deadline), func(t *testing.T) {
			withJob(t, runs, func(c *cluster) {
				c.create(cronOf("0 * * * *", func(s *batchv1.CronJobSpec) {
					s.ConcurrencyPolicy, s.StartingDeadlineSeconds = batchv1.ForbidConcurrent, &deadline
				}))
				c.pass(2*time.Hour + 10*time.Minute)
				c.wantDue("01:00")
				c.finishPod(0, corev1.PodSucceeded)
				c.pass(time.Minute)
				c.wantDue(want)
			})
		})
	}
}

// While it is suspended nothing runs; then the last of the missed runs does.
func TestCronJobSuspend(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(cronOf("*/1 * * * *", func(s *batchv1.CronJobSpec) { s.Suspend = new(true) }))
		c.pass(3*time.Hour + 30*time.Second)
		c.wantDue("")
		_, err := api.Mutate(c.ctx, c, api.CronJobs, "default", "tick", api.UpdateOptions{}, func(o *batchv1.CronJob) (bool, error) {
			o.Spec.Suspend = new(false)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
		c.wantDue("03:00")
		c.hasEvent("TooManyMissedTimes")
	})
}

func TestCronJobTimeZone(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(cronOf("30 9 * * *", func(s *batchv1.CronJobSpec) { s.TimeZone = new("Asia/Tokyo") }))
		c.pass(time.Hour)
		c.wantDue("00:30")
		if at := c.jobs()[0].Annotations[batchv1.CronJobScheduledTimestampAnnotation]; at != "2000-01-01T09:30:00+09:00" {
			t.Errorf("annotation %q", at)
		}
	})
}

// A store that takes no writes at the time costs no run, and none runs twice.
func TestCronJobStoreDown(t *testing.T) {
	withJob(t, succeeds, func(c *cluster) {
		c.create(cronOf("0 * * * *", nil))
		c.pass(time.Hour - time.Second)
		c.store.down.Store(true)
		c.pass(10 * time.Second)
		c.store.down.Store(false)
		c.pass(time.Minute)
		c.wantDue("01:00")
		if n := c.store.creates.Load(); n != 1 {
			t.Errorf("%d pods were created", n)
		}
	})
}
