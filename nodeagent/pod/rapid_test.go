package pod

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// TestStepHolds lets anything happen to any pod and checks what must hold at
// all times, and that in the end it stands or is gone.
func TestStepHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &play{open: map[string]Action{}, start: time.Unix(1e9, 0), now: time.Unix(1e9, 0)}
		p.s = New(anyPod(t), "192.0.2.9", nil, p.now)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			p.decide(t)
			p.happen(t)
		}
		stop := rapid.Bool().Draw(t, "stop at the end")
		if stop {
			p.s.End(Delete, 30*time.Second, p.now)
		}
		for i := 0; ; i++ {
			if i > 300 {
				t.Fatalf("no end: open %v, %s", p.keys(), brief(p.s.Prev))
			}
			wake := p.decide(t)
			for _, k := range p.keys() {
				p.done(p.open[k])
			}
			p.s.Stored = p.s.Final != nil
			if len(p.open) == 0 && !wake.IsZero() && wake.After(p.now) {
				p.now = wake
			}
			if p.s.Done || p.s.Stop == nil && p.settled() {
				return
			}
		}
	})
}

func anyPod(t *rapid.T) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"}}
	p.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(t, "policy")
	always := corev1.ContainerRestartPolicyAlways
	for i := range rapid.IntRange(0, 3).Draw(t, "init containers") {
		c := corev1.Container{Name: fmt.Sprint("i", i), Image: "img"}
		if rapid.Bool().Draw(t, "sidecar") {
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "img"})
	}
	if rapid.Bool().Draw(t, "drain") {
		p.Annotations = map[string]string{"podsnap.dev/drain": "true"}
	}
	return p
}

// decide takes a step and checks what it asks for.
func (p *play) decide(t *rapid.T) time.Time {
	was := p.s.Prev.Phase
	r := Step(p.s, p.now)
	for _, a := range r.Actions {
		if _, ok := p.open[a.Key()]; ok {
			t.Fatalf("%s is under way already", a)
		}
		p.check(t, a)
		p.s.Begin(a)
		p.open[a.Key()] = a
	}
	if p.s.Final != nil && (r.Status.Phase != was || len(r.Status.ContainerStatuses) != len(p.s.Pod.Spec.Containers)) {
		t.Fatalf("a final status changed from %s to %s", was, brief(r.Status))
	}
	if r.Final {
		p.s.Final = r.Status.DeepCopy()
	}
	p.s.Prev = r.Status
	return r.Wake
}

func (p *play) check(t *rapid.T, a Action) {
	switch a.Kind {
	case StartContainer:
		c := p.s.Containers[a.Container]
		if p.s.Sandbox.ID == "" || p.s.Sandbox.Dead || !p.s.Volumes.Ready || !c.Pulled || c.running() || p.s.Stop != nil || p.s.Final != nil {
			t.Fatalf("%s is too early or too late: %+v", a, p.s)
		}
		if a.Attempt > 0 && (c.Current == nil || c.Current.Attempt != a.Attempt-1) {
			t.Fatalf("%s follows %+v", a, c.Current)
		}
		for i := range p.s.Pod.Spec.InitContainers {
			spec := &p.s.Pod.Spec.InitContainers[i]
			if spec.Name == a.Container {
				break
			}
			i := p.s.Containers[spec.Name].Current
			if !isSidecar(spec) && (i == nil || i.State != runtime.Exited || i.ExitCode != 0 || i.Sandbox != p.s.Sandbox.ID) {
				t.Fatalf("%s before %s is done", a, spec.Name)
			}
		}
	case RemoveSandbox, RemoveVolumes, Finish:
		for _, b := range p.open {
			if b.Kind == StartSandbox || b.Kind == StartContainer || b.Kind == PrepareVolumes && a.Kind != RemoveSandbox {
				t.Fatalf("%s while there is %s", a, b)
			}
		}
		if a.Kind == RemoveSandbox {
			break
		}
		if p.s.Sandbox.ID != "" {
			t.Fatalf("%s while the sandbox is there", a)
		}
		if a.Kind == Finish && (!p.s.Volumes.Gone || p.s.Stop == nil) {
			t.Fatalf("%s while volumes are there", a)
		}
	case StartSandbox:
		if p.s.Sandbox.ID != "" || p.s.Stop != nil || p.s.Final != nil {
			t.Fatalf("%s: %+v", a, p.s.Sandbox)
		}
	case PrepareVolumes, Pull, KillContainer, RemoveContainer: // at any time
	case StopContainer:
		if _, drain := p.s.Pod.Annotations["podsnap.dev/drain"]; drain && p.s.Stop != nil && p.s.Stop.Mode == Delete &&
			p.now.Before(p.s.Stop.Deadline.Add(-drainReserve)) {
			t.Fatalf("%s before the pod is drained", a)
		}
	}
}

// happen lets one thing happen.
func (p *play) happen(t *rapid.T) {
	keys := p.keys()
	switch k := rapid.IntRange(0, 9).Draw(t, "event"); {
	case k < 5 && len(keys) > 0:
		a := p.open[rapid.SampledFrom(keys).Draw(t, "action")]
		var f *Fault
		if a.Kind != Finish && rapid.IntRange(0, 4).Draw(t, "fault") == 0 {
			f = &Fault{Reason: rapid.SampledFrom([]string{"Fault", cannotRunReason}).Draw(t, "reason")}
		}
		if !p.s.Done {
			p.end(a, f)
		}
	case k < 7:
		for spec := range all(&p.s.Pod.Spec) {
			c := p.s.Containers[spec.Name]
			if c.running() && rapid.Bool().Draw(t, "exits") {
				p.s.Exited(c.Current.ID, runtime.Exit{ExitCode: rapid.IntRange(0, 2).Draw(t, "code"), At: p.now})
			}
		}
	case k == 7 && p.s.Sandbox.ID != "":
		p.s.SandboxDied(p.s.Sandbox.ID)
	case k == 8:
		p.now = p.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, 20 * time.Minute}).Draw(t, "time"))
	case k == 9 && rapid.IntRange(0, 5).Draw(t, "end") == 0:
		mode := rapid.SampledFrom([]Mode{Keep, Evict, Delete, Gone}).Draw(t, "mode")
		p.s.End(mode, time.Duration(rapid.IntRange(0, 40).Draw(t, "grace"))*time.Second, p.now)
	}
}

// settled tells whether a pod stands, or has ended and left nothing behind.
func (p *play) settled() bool {
	if len(p.open) > 0 {
		return false
	}
	if p.s.Final != nil {
		return p.s.Stored && p.s.Sandbox.ID == "" && p.s.Volumes.Gone
	}
	for spec, init := range all(&p.s.Pod.Spec) {
		c := p.s.Containers[spec.Name]
		switch {
		case init && !isSidecar(spec):
			if c.running() { // it would end; nobody lets it
				return true
			}
		case !c.running() && (c.Current == nil || p.s.again(spec, init, c.Current.ExitCode)):
			return false
		}
	}
	return true
}
