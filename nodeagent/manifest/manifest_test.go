package manifest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const web = `
# what a node has of its own
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: infra}
spec:
  containers: [{name: main, image: nginx}]
`

// dir is a directory that is followed.
type dir struct {
	t       *testing.T
	path    string
	sets    chan []*corev1.Pod
	refused chan string
}

func follow(t *testing.T, files map[string]string) *dir {
	t.Helper()
	d := &dir{t: t, path: t.TempDir(), sets: make(chan []*corev1.Pod, 64), refused: make(chan string, 16)}
	for name, text := range files {
		d.write(name, text)
	}
	m, err := New(Config{Dir: d.path, Node: "n1", Admit: admit, Refused: func(file string, err error) { d.refused <- file + ": " + err.Error() }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- m.Run(ctx, func(pods []*corev1.Pod) { d.sets <- pods })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return d
}

func admit(_ context.Context, p *corev1.Pod) error {
	if p.Spec.HostPID {
		return errors.New("spec.hostPID: not today")
	}
	return nil
}

// write puts a file there as an editor does, in one piece.
func (d *dir) write(name, text string) {
	d.t.Helper()
	aside := filepath.Join(d.t.TempDir(), name)
	if err := os.WriteFile(aside, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(aside, filepath.Join(d.path, name)); err != nil {
		d.t.Fatal(err)
	}
}

// until is the first set of pods that is like want: "name uid", sorted.
func (d *dir) until(cond func(pods []*corev1.Pod) bool) []*corev1.Pod {
	d.t.Helper()
	late := time.After(time.Minute)
	var last []*corev1.Pod
	for {
		select {
		case last = <-d.sets:
			if cond(last) {
				return last
			}
		case <-late:
			d.t.Fatalf("the last set was %v", last)
		}
	}
}

func (d *dir) refusal() string {
	d.t.Helper()
	select {
	case said := <-d.refused:
		return said
	case <-time.After(time.Minute):
		d.t.Fatal("nothing was refused")
		return ""
	}
}

func names(pods []*corev1.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.Namespace+"/"+p.Name)
	}
	slices.Sort(out)
	return out
}

func are(want ...string) func([]*corev1.Pod) bool {
	return func(pods []*corev1.Pod) bool { return slices.Equal(names(pods), want) }
}

func TestFilesComeChangeAndGo(t *testing.T) {
	d := follow(t, map[string]string{"web.yaml": web, ".hidden.yaml": web, "web.yaml~": web})
	first := d.until(are("infra/web-n1"))[0]
	switch a := first.Annotations; {
	case len(first.UID) != 32 || a[corev1.MirrorPodAnnotationKey] != string(first.UID) || a["kubernetes.io/config.hash"] != string(first.UID):
		t.Errorf("uid %q, annotations %v", first.UID, a)
	case a["kubernetes.io/config.source"] != "file" || first.Spec.NodeName != "n1":
		t.Errorf("annotations %v, node %q", a, first.Spec.NodeName)
	}
	// A second one, in JSON, written in place.
	if err := os.WriteFile(filepath.Join(d.path, "b.json"), []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i"}]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	both := d.until(are("default/b-n1", "infra/web-n1"))
	if i := slices.Index(names(both), "infra/web-n1"); both[i].UID != first.UID {
		t.Error("a file that has not changed is another pod")
	}
	d.write("web.yaml", strings.Replace(web, "nginx", "nginx:2", 1))
	d.until(func(pods []*corev1.Pod) bool {
		return are("default/b-n1", "infra/web-n1")(pods) && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.UID == first.UID })
	})
	if err := os.Remove(filepath.Join(d.path, "b.json")); err != nil {
		t.Fatal(err)
	}
	d.until(are("infra/web-n1"))
	if err := os.Rename(filepath.Join(d.path, "web.yaml"), filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	d.until(are())
}

// TestNextAgentKnowsThem: the same file on the same node is the same pod.
func TestNextAgentKnowsThem(t *testing.T) {
	a := follow(t, map[string]string{"web.yaml": web}).until(are("infra/web-n1"))[0]
	b := follow(t, map[string]string{"other.yaml": web}).until(are("infra/web-n1"))[0]
	if a.UID != b.UID {
		t.Errorf("UIDs %s and %s of one manifest", a.UID, b.UID)
	}
}

func TestBrokenFilesLoseNothing(t *testing.T) {
	d := follow(t, map[string]string{"web.yaml": web})
	first := d.until(are("infra/web-n1"))[0]
	for _, c := range []struct{ text, want string }{
		{"", "web.yaml: it is empty"},
		{"# nothing\n---\n", "web.yaml: it is empty"},
		{"apiVersion: v1\nkind: [", "web.yaml: error converting YAML to JSON"},
		{strings.Replace(web, "kind: Pod", "kind: Service", 1), `web.yaml: apiVersion "v1", kind "Service": it must be a Pod of v1`},
		{strings.Replace(web, "image:", "imagee:", 1), `unknown field "spec.containers[0].imagee"`},
		{web + "---" + web, "web.yaml: it holds several documents"},
		{strings.Replace(web, "name: web,", "", 1), "web.yaml: metadata.name: required"},
		{strings.Replace(web, "name: web,", "name: W_,", 1), "metadata.name: Invalid value"},
		{strings.Replace(web, "spec:", "spec:\n  hostPID: true", 1), "web.yaml: spec.hostPID: not today"},
		{strings.Replace(web, "spec:", "spec:\n  nodeName: n2", 1), `web.yaml: spec.nodeName: "n2" is not this node, which is "n1"`},
	} {
		d.write("web.yaml", c.text)
		if got := d.refusal(); !strings.Contains(got, c.want) {
			t.Errorf("%q: refused with %q, want %q", c.text, got, c.want)
		}
		if now := d.until(are("infra/web-n1"))[0]; now.UID != first.UID {
			t.Errorf("%q: the pod is another one", c.text)
		}
	}
	d.write("second.yaml", web)
	if got := d.refusal(); !strings.Contains(got, "metadata.name: the pod infra/web-n1 is that of second.yaml") {
		t.Errorf("two of one name: refused with %q", got)
	}
}

func TestNew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "is a file", file + "x": "no such file"} {
		if _, err := New(Config{Dir: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New of %s: %v, want %s", path, err, want)
		}
	}
}
