package pod

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/nodeagent/probe"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play is a pod on a stage without an engine: the script says what comes of
// each action.
type play struct {
	s     *State
	start time.Time
	now   time.Time
	open  map[string]Action
	n     int
}

// TestStep runs the scripts of testdata/step. Each command changes something and
// prints what Step then decides: actions begun with "+", those under way with
// "…", when it wants to be asked again, and the status.
//
//	pod          takes a pod on (the spec as YAML; arguments: labels, annotations)
//	done A…      actions end well; "all" is all there are, again and again
//	fail A       one ends with reason= and message=
//	exit c       a container ends (code=, oom)
//	dead         the pause process ends
//	probe c      a result: kind=, ok
//	tick d       time passes
//	expire       what has been active for too long has to end
//	stop         the pod has to end: mode=, grace=
//	drained      the pod is annotated as drained
//	stored       the last status is in Objects
func TestStep(t *testing.T) {
	datadriven.Walk(t, "testdata/step", func(t *testing.T, path string) {
		t.Helper()
		p := &play{open: map[string]Action{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return p.run(t, d)
		})
	})
}

func (p *play) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	arg := func(name, otherwise string) string {
		for _, a := range d.CmdArgs {
			if a.Key == name && len(a.Vals) > 0 {
				return strings.Join(a.Vals, ",")
			}
		}
		return otherwise
	}
	has := func(name string) bool {
		return slices.ContainsFunc(d.CmdArgs, func(a datadriven.CmdArg) bool { return a.Key == name })
	}
	switch d.Cmd {
	case "pod":
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"}}
		if err := yaml.UnmarshalStrict([]byte(d.Input), &pod.Spec); err != nil {
			d.Fatalf(t, "%v", err)
		}
		if has("function") {
			pod.Labels = map[string]string{"faas_function": "p"}
		}
		if has("drain") {
			pod.Annotations = map[string]string{"podsnap.dev/drain": "true"}
		}
		p.start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		p.now = p.start
		p.open = map[string]Action{}
		p.s = New(pod, "192.0.2.9", nil, p.now)
	case "done":
		if has("all") {
			for p.step(); len(p.open) > 0; p.step() {
				for _, k := range p.keys() {
					p.done(p.open[k])
				}
			}
			break
		}
		for _, arg := range d.CmdArgs {
			p.step() // the one before may have brought it about
			for _, a := range p.named(t, d, arg.Key) {
				p.done(a)
			}
		}
	case "fail":
		p.step()
		f := &Fault{Reason: arg("reason", "Fault"), Message: arg("message", "it failed")}
		for _, a := range p.named(t, d, d.CmdArgs[0].Key) {
			p.end(a, f)
		}
	case "exit":
		var code int
		fmt.Sscan(arg("code", "0"), &code)
		c := p.s.Containers[d.CmdArgs[0].Key]
		p.s.Exited(c.Current.ID, runtime.Exit{ExitCode: code, OOMKilled: has("oom"), At: p.now})
	case "dead":
		p.s.SandboxDied(p.s.Sandbox.ID)
	case "probe":
		name := d.CmdArgs[0].Key
		p.s.Probed(name, p.s.Containers[name].Current.ID, probe.Result{Kind: probe.Kind(arg("kind", "Readiness")), OK: has("ok")})
	case "expire":
		p.s.Expire(p.now)
	case "tick":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		p.now = p.now.Add(by)
	case "stop":
		grace, err := time.ParseDuration(arg("grace", "30s"))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		mode := map[string]Mode{"keep": Keep, "evict": Evict, "delete": Delete, "gone": Gone}[arg("mode", "delete")]
		p.s.End(mode, grace, p.now)
	case "drained":
		next := p.s.Pod.DeepCopy()
		next.Annotations["podsnap.dev/drained"] = "true"
		p.s.Observe(next, p.now)
	case "stored":
		p.s.Stored = true
	default:
		d.Fatalf(t, "no such command")
	}
	return p.step()
}

// named are the actions under way of a kind, and of a container if it is given.
func (p *play) named(t *testing.T, d *datadriven.TestData, name string) []Action {
	t.Helper()
	kind, container, _ := strings.Cut(name, "/")
	var out []Action
	for _, k := range p.keys() {
		if a := p.open[k]; string(a.Kind) == kind && (container == "" || a.Container == container) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		d.Fatalf(t, "%s is not under way", name)
	}
	return out
}

func (p *play) keys() []string {
	var out []string
	for k := range p.open {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (p *play) done(a Action) { p.end(a, nil) }

func (p *play) end(a Action, f *Fault) {
	delete(p.open, a.Key())
	p.n++
	switch a.Kind {
	case PrepareVolumes:
		p.s.VolumesPrepared(a, f, p.now)
	case RemoveVolumes:
		p.s.VolumesRemoved(a, f, p.now)
	case StartSandbox:
		p.s.SandboxStarted(a, runtime.Sandbox{ID: fmt.Sprintf("sb%d", p.n), IP: "10.0.0.1", Pid: 1}, f, p.now)
	case RemoveSandbox:
		p.s.SandboxRemoved(a, f, p.now)
	case Pull:
		p.s.Pulled(a, "sha256:x", f, p.now)
	case StartContainer:
		p.s.ContainerStarted(a, runtime.Container{
			ID: fmt.Sprintf("%s%d", a.Container, a.Attempt), Name: a.Container, Attempt: a.Attempt,
			Sandbox: p.s.Sandbox.ID, State: runtime.Running, StartedAt: p.now,
		}, f, p.now)
	case Finish:
		p.s.Acted(a)
		p.s.Done = true
	case StopContainer, KillContainer, RemoveContainer:
		p.s.Acted(a)
	}
}

// step asks for a decision as a worker would and says what came.
func (p *play) step() string {
	r := Step(p.s, p.now)
	if r.Final {
		p.s.Final = r.Status.DeepCopy()
	}
	p.s.Prev = r.Status
	var b strings.Builder
	for _, k := range p.keys() {
		fmt.Fprintf(&b, "… %s\n", p.open[k])
	}
	for _, a := range r.Actions {
		p.s.Begin(a)
		p.open[a.Key()] = a
		fmt.Fprintf(&b, "+ %s\n", a)
	}
	fmt.Fprintf(&b, "%s", p.now.Sub(p.start))
	if !r.Wake.IsZero() {
		fmt.Fprintf(&b, " (again at %s)", r.Wake.Sub(p.start))
	}
	if r.Final {
		b.WriteString(" for good")
	}
	if p.s.Done {
		b.WriteString(" done")
	}
	fmt.Fprintf(&b, " %s\n", brief(r.Status))
	return b.String()
}

func brief(st corev1.PodStatus) string {
	out := string(st.Phase)
	for _, c := range st.Conditions {
		if c.Status == corev1.ConditionTrue {
			out += " " + string(c.Type)
		} else if c.Type == corev1.PodReady && c.Reason != "" {
			out += " not ready: " + strings.TrimSpace(c.Reason+" "+c.Message)
		}
	}
	for _, cs := range append(slices.Clone(st.InitContainerStatuses), st.ContainerStatuses...) {
		out += fmt.Sprintf("\n  %s/%d %s", cs.Name, cs.RestartCount, briefState(cs.State))
		if s := briefState(cs.LastTerminationState); s != "-" {
			out += ", before: " + s
		}
	}
	return out
}

func briefState(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Waiting != nil:
		return strings.TrimSuffix(strings.TrimSpace(s.Waiting.Reason+": "+s.Waiting.Message), ":")
	case s.Terminated != nil:
		return strings.TrimSpace(fmt.Sprintf("%s(%d) %s", s.Terminated.Reason, s.Terminated.ExitCode, s.Terminated.Message))
	}
	return "-"
}
