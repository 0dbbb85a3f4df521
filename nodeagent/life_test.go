package nodeagent_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

func TestRunsAPod(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{ReadyAfter: 200 * time.Millisecond})
		r.pod("a", function)
		r.after(100 * time.Millisecond)
		r.want("a", "Running ready=false main:running/0")
		r.after(120 * time.Millisecond)
		r.want("a", "Running ready=true main:running/0")
		p := r.get("a")
		if p.Status.PodIP != "10.42.0.2" || p.Status.HostIP != "192.0.2.9" || p.Status.StartTime == nil || p.Status.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("status %+v", p.Status)
		}
		if p.Status.ContainerStatuses[0].ImageID != "sha256:img" {
			t.Errorf("image %q", p.Status.ContainerStatuses[0].ImageID)
		}
	})
}

// No process of a pod runs before what guards its address has said that it may.
func TestGuard(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		var mu sync.Mutex
		var asked []string
		why := errors.New("not in the kernel")
		r.guard = func(p *corev1.Pod, addresses []string) error {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, p.Name+" "+strings.Join(addresses, " "))
			return why
		}
		r.pod("a")
		r.after(5 * time.Second)
		r.want("a", "Pending ready=false main:CreateContainerError/0")
		if !r.events.has("not in the kernel") {
			t.Errorf("events %v", r.events.said)
		}
		mu.Lock()
		why = nil
		mu.Unlock()
		r.after(30 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		mu.Lock()
		defer mu.Unlock()
		if len(asked) < 2 || asked[0] != "a 10.42.0.2" {
			t.Errorf("asked for %v", asked)
		}
	})
}

func TestDeletion(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{TermDelay: 3 * time.Second})
		r.pod("a")
		r.del("a")
		r.want("a", "Running ready=true main:running/0")
		r.after(2 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		r.after(2 * time.Second)
		if !r.gone("a") {
			t.Errorf("the object is still there: %s", look(r.get("a")))
		}
		left, _ := r.engine.List(t.Context())
		if len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestDeletionKillsAfterGrace(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{IgnoreTERM: true})
		r.pod("a")
		r.del("a")
		r.after(29 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		r.after(2 * time.Second)
		if !r.gone("a") {
			t.Errorf("the object is still there: %s", look(r.get("a")))
		}
		if !slices.Contains(r.engine.Calls(), "Signal main 9") {
			t.Errorf("not killed: %v", r.engine.Calls())
		}
	})
}

func TestDrainHoldsTERM(t *testing.T) {
	drain := func(p *corev1.Pod) { p.Annotations = map[string]string{api.AnnotationDrain: "true"} }
	signalled := func(r *rig) bool { return slices.Contains(r.engine.Calls(), "Signal main 15") }
	node(t, func(r *rig) {
		t := r.t
		r.pod("a", drain)
		r.pod("b", drain)
		r.del("a")
		r.after(10 * time.Second)
		if signalled(r) {
			t.Fatal("SIGTERM before the pod was drained")
		}
		_, err := r.o.Patch(t.Context(), api.Pods, "default", "a", api.Patch{
			Type: "application/merge-patch+json", Data: []byte(`{"metadata":{"annotations":{"podsnap.dev/drained":"true"}}}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !signalled(r) || !r.gone("a") {
			t.Fatal("drained, and not stopped")
		}
		r.del("b")
		r.after(24 * time.Second)
		if r.gone("b") {
			t.Fatal("not held")
		}
		r.after(2 * time.Second)
		if !r.gone("b") {
			t.Fatal("held longer than the grace period less 5 s")
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy corev1.RestartPolicy
		run    fake.Run
		want   string
	}{
		{corev1.RestartPolicyNever, fake.Run{For: time.Second}, "Succeeded ready=false main:Completed(0)/0"},
		{corev1.RestartPolicyNever, fake.Run{For: time.Second, Code: 3}, "Failed ready=false main:Error(3)/0"},
		{corev1.RestartPolicyNever, fake.Run{For: time.Second, Code: 137, OOM: true}, "Failed ready=false main:OOMKilled(137)/0"},
		{corev1.RestartPolicyOnFailure, fake.Run{For: time.Second}, "Succeeded ready=false main:Completed(0)/0"},
		{corev1.RestartPolicyOnFailure, fake.Run{For: time.Second, Code: 1}, "Running ready=true main:running/1"},
		{corev1.RestartPolicyAlways, fake.Run{For: time.Second}, "Running ready=true main:running/1"},
	} {
		t.Run(fmt.Sprintf("%s %d", c.policy, c.run.Code), func(t *testing.T) {
			node(t, func(r *rig) {
				t := r.t
				r.engine.Script("img", fake.Script{Runs: []fake.Run{c.run, {For: -1}}})
				r.pod("a", policy(c.policy))
				r.after(90 * time.Second)
				r.want("a", c.want)
				if c.run.OOM != r.events.has("OOMKilled: Container main was killed") {
					t.Errorf("events %v", r.events.said)
				}
				boxes, _ := r.engine.List(t.Context())
				if ended := r.get("a").Status.Phase != corev1.PodRunning; ended != (len(boxes) == 0) {
					t.Errorf("sandboxes %v", boxes)
				}
				r.del("a")
				if r.after(time.Second); !r.gone("a") {
					t.Error("not deleted")
				}
				for _, dir := range []string{"pods", "logs"} {
					if left, err := os.ReadDir(r.dir + "/" + dir); len(left) != 0 || err != nil {
						t.Errorf("%s: %v %v", dir, left, err)
					}
				}
			})
		})
	}
}

func TestCrashLoop(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{Runs: []fake.Run{{Code: 1}}})
		p := r.pod("a", function)
		var starts []time.Duration
		begin := time.Now()
		for n := 0; len(starts) < 10; {
			k := 0
			for _, c := range r.engine.Calls() {
				if strings.HasPrefix(c, "StartContainer") {
					k++
				}
			}
			for ; n < k; n++ {
				starts = append(starts, time.Since(begin))
			}
			r.after(time.Second)
		}
		s := time.Second
		if diff := cmp.Diff([]time.Duration{0, 0, s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, 183 * s}, starts); diff != "" {
			t.Errorf("starts (-want +got)\n%s", diff)
		}
		got := r.get("a").Status.ContainerStatuses[0]
		want := "back-off 1m0s restarting failed container=main pod=a_default(" + string(p.UID) + ")"
		if got.State.Waiting == nil || got.State.Waiting.Reason != "CrashLoopBackOff" || got.State.Waiting.Message != want ||
			got.LastTerminationState.Terminated == nil || got.LastTerminationState.Terminated.ExitCode != 1 {
			t.Errorf("status %+v", got)
		}
		if !r.events.has("BackOff: back-off 4s") {
			t.Errorf("events %v", r.events.said)
		}
		// Ten minutes of running make up for it: the next restart is at once.
		r.engine.Script("img", fake.Script{Runs: []fake.Run{{For: 11 * time.Minute, Code: 1}}})
		r.after(61*time.Second + 11*time.Minute)
		r.want("a", "Running ready=true main:running/11")
	})
}

func TestFaultsOfAPod(t *testing.T) {
	never := func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }
	secret := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	}
	env := func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}, Key: "k",
		}}}}
	}
	for _, c := range []struct {
		name    string
		script  fake.Script
		change  func(*corev1.Pod)
		reason  string
		message string
		heal    func(r *rig)
		wait    time.Duration
	}{
		{
			"image",
			fake.Script{PullErr: fake.ErrUnknownImage},
			function, "ImagePullBackOff", "manifest unknown",
			func(r *rig) { r.engine.Script("img", fake.Script{}) }, time.Minute,
		},
		{
			"secret",
			fake.Script{},
			secret, "CreateContainerConfigError", `secret "key" not found in namespace "default"`,
			func(r *rig) {
				_, _ = r.o.Create(r.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"a": nil}})
			}, 15 * time.Second,
		},
		{
			"config map",
			fake.Script{},
			env, "CreateContainerConfigError", `environment variable A: configmap "cfg" not found in namespace "default"`,
			func(r *rig) {
				_, _ = r.o.Create(r.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cfg"}, Data: map[string]string{"k": "v"}})
			}, 15 * time.Second,
		},
		{
			"start",
			fake.Script{StartErr: &runtime.StartError{Reason: "CreateContainerError", Err: errors.New("no space left")}},
			never,
			"CreateContainerError", "no space left",
			func(r *rig) { r.engine.Script("img", fake.Script{}) }, 15 * time.Second,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			node(t, func(r *rig) {
				t := r.t
				r.engine.Script("img", c.script)
				r.pod("ok", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" })
				r.pod("a", c.change)
				r.after(20 * time.Second)
				w := r.get("a").Status.ContainerStatuses[0].State.Waiting
				if w == nil || w.Reason != c.reason || !strings.Contains(w.Message, c.message) {
					t.Errorf("waiting %+v, want %s: %s", w, c.reason, c.message)
				}
				if !r.events.has(c.message) {
					t.Errorf("events %v", r.events.said)
				}
				r.want("ok", "Running ready=true main:running/0")
				c.heal(r)
				r.after(c.wait)
				r.want("a", "Running ready=true main:running/0")
			})
		})
	}
}

func TestCannotRun(t *testing.T) {
	node(t, func(r *rig) {
		r.engine.Script("img", fake.Script{StartErr: &runtime.StartError{Reason: "RunContainerError", Err: errors.New("exec: no such file")}})
		r.pod("a", policy(corev1.RestartPolicyNever))
		r.want("a", "Failed ready=false main:ContainerCannotRun(128)/0")
		r.pod("b")
		r.after(5 * time.Second)
		r.want("b", "Running ready=false main:CrashLoopBackOff/1")
	})
}

func TestInitContainers(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("setup", fake.Script{Runs: []fake.Run{{For: time.Second, Code: 1}, {For: time.Second}}})
		r.engine.Script("side", fake.Script{})
		always := corev1.ContainerRestartPolicyAlways
		r.pod("a", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{
				{Name: "one", Image: "setup"}, {Name: "side", Image: "side", RestartPolicy: &always}, {Name: "two", Image: "setup"},
			}
		})
		r.after(100 * time.Millisecond)
		r.want("a", "Pending ready=false one:running/0 side:PodInitializing/0 two:PodInitializing/0 main:PodInitializing/0")
		r.after(2400 * time.Millisecond)
		r.want("a", "Pending ready=false one:Completed(0)/1 side:running/0 two:running/0 main:PodInitializing/0")
		r.after(2 * time.Second)
		r.want("a", "Running ready=true one:Completed(0)/1 side:running/0 two:Completed(0)/1 main:running/0")
		r.del("a")
		r.after(time.Second)
		calls := strings.Join(r.engine.Calls(), ",")
		if i, j := strings.Index(calls, "Signal main 15"), strings.Index(calls, "Signal side 15"); i < 0 || j < i {
			t.Errorf("the sidecar has to stop after the others: %s", calls)
		}
		if !r.gone("a") {
			t.Error("not deleted")
		}
	})
}

func TestLivenessRestarts(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{ReadyAfter: -1, IgnoreTERM: true})
		r.pod("a", func(p *corev1.Pod) {
			p.Spec.TerminationGracePeriodSeconds = new(int64(4))
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{
				PeriodSeconds: 1, FailureThreshold: 3,
				ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}},
			}
			p.Spec.Containers[0].LivenessProbe.TCPSocket.Port.IntVal = 80
		})
		r.after(5 * time.Second)
		r.want("a", "Running ready=true main:running/0")
		r.engine.Script("img", fake.Script{})
		r.after(2 * time.Second)
		r.want("a", "Running ready=true main:running/1")
		if !r.events.has("Unhealthy: Liveness probe failed") || !r.events.has("Killing: Container main failed liveness probe, will be restarted") {
			t.Errorf("events %v", r.events.said)
		}
	})
}

func TestSandboxDeath(t *testing.T) {
	for rp, want := range map[corev1.RestartPolicy]string{
		corev1.RestartPolicyAlways: "Running ready=true main:running/1",
		corev1.RestartPolicyNever:  "Failed ready=false main:Error(137)/0",
	} {
		t.Run(string(rp), func(t *testing.T) {
			node(t, func(r *rig) {
				t := r.t
				r.pod("a", policy(rp))
				boxes, _ := r.engine.List(t.Context())
				r.engine.Kill(boxes[0].ID, fake.Run{})
				r.after(time.Second)
				r.want("a", want)
			})
		})
	}
}

func TestHooks(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("a", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
				PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hello"}}},
				PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"bye"}}},
			}
		})
		r.del("a")
		r.after(time.Second)
		var got []string
		for _, c := range r.engine.Calls() {
			if strings.HasPrefix(c, "Exec") || strings.HasPrefix(c, "Signal") {
				got = append(got, c)
			}
		}
		if diff := cmp.Diff([]string{"Exec [hello]", "Exec [bye]", "Signal main 15"}, got); diff != "" {
			t.Error(diff)
		}
		// A start whose hook fails does not last.
		r.pod("b", func(p *corev1.Pod) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"exit", "x"}}}}
		})
		r.after(5 * time.Second)
		if !r.events.has("FailedPostStartHook: command ended with 1") || r.get("b").Status.ContainerStatuses[0].RestartCount == 0 {
			t.Errorf("%s %v", look(r.get("b")), r.events.said)
		}
	})
}

func TestContainerSpec(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		if _, err := r.o.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"token": []byte("hush")}}); err != nil {
			t.Fatal(err)
		}
		limits := corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("64Mi")}
		p := r.pod("a", function, func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.Command, c.Args = []string{"run"}, []string{"$(WHERE)"}
			c.Env = []corev1.EnvVar{
				{Name: "WHERE", Value: "here"},
				{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			}
			c.Resources = corev1.ResourceRequirements{Limits: limits}
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(1000)), RunAsNonRoot: new(true)}
			c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: new(true), RunAsUser: new(int64(1001))}
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}}}
			c.VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/var/openfaas/secrets/key", ReadOnly: true}}
		})
		r.after(time.Second)
		boxes, _ := r.engine.List(t.Context())
		got := r.engine.Spec(boxes[0].Containers[0].ID)
		if n := len(got.Mounts); n != 4 || got.Mounts[0].Target != "/var/openfaas/secrets/key" || !got.Mounts[0].ReadOnly {
			t.Errorf("mounts %+v", got.Mounts)
		}
		if b, err := os.ReadFile(got.Mounts[0].Source + "/token"); string(b) != "hush" {
			t.Errorf("secret %q, %v", b, err)
		}
		got.Mounts = nil
		want := runtime.ContainerSpec{
			Sandbox: boxes[0].ID, Name: "main", Image: "img", Command: []string{"run"}, Args: []string{"here"},
			Env:       []string{"WHERE=here", "IP=" + boxes[0].IP},
			Resources: runtime.Resources{CPUShares: 256, CPUQuota: 25000, Memory: 64 << 20, Pids: 1024},
			Security:  runtime.Security{User: new(int64(1001)), RunAsNonRoot: true, ReadOnlyRoot: true},
			LogPath:   r.dir + "/logs/default_a_" + string(p.UID) + "/main/0.log",
			Labels: map[string]string{
				"io.kubernetes.pod.name": "a", "io.kubernetes.pod.namespace": "default",
				"io.kubernetes.pod.uid": string(p.UID), "io.kubernetes.container.name": "main",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		// What is under the hood of a pod goes with it.
		r.del("a")
		r.after(time.Second)
		for _, dir := range []string{"pods", "logs"} {
			if left, err := os.ReadDir(r.dir + "/" + dir); len(left) != 0 || err != nil {
				t.Errorf("%s: %v %v", dir, left, err)
			}
		}
	})
}

// What an image is pulled with stands in Secrets; one of them may come later.
func TestImagePullSecrets(t *testing.T) {
	node(t, func(r *rig) {
		r.engine.Script("img", fake.Script{PullAs: "team"})
		r.pod("p", func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "other"}, {Name: "team"}}
		})
		r.after(time.Second) // what it is is written after a moment
		r.want("p", "Pending ready=false main:ErrImagePull/0")
		for _, user := range []string{"other", "team"} {
			if !r.events.has(`Unable to use image pull secret "` + user + `": secret "` + user + `" not found in namespace "default"`) {
				t.Errorf("nobody is told of %s: %q", user, r.events.said)
			}
			_, err := r.o.Objects.Create(t.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: user}, Type: corev1.SecretTypeDockerConfigJson,
				Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"r.test":{"username":"` + user + `","password":"p"}}}`)},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		r.after(time.Minute)
		r.want("p", "Running ready=true main:running/0")
	})
}
