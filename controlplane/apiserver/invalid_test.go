package apiserver

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
)

// refused is a document of testdata/invalid.yaml.
type refused struct {
	title, verb, says, text string
}

func manifestsOf(t *testing.T, file string) []refused {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, docs, _ := strings.Cut(string(b), "---\n")
	var out []refused
	for doc := range strings.SplitSeq(docs, "\n---\n") {
		m := refused{verb: "create"}
		for line := range strings.Lines(doc) {
			note, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
			switch key, value, _ := strings.Cut(note, ": "); {
			case !ok:
				m.text += line
			case key == "verb":
				m.verb = value
			case key == "says":
				m.says = value
			default:
				m.title = note
			}
		}
		out = append(out, m)
	}
	return out
}

// TestInvalidManifests: what is wrong is refused in words that say where and
// why, and changes nothing.
func TestInvalidManifests(t *testing.T) {
	h, o := rig(t)
	applied[metav1.PartialObjectMetadata](t, h, deps+"/dep?fieldManager=m", deployment(""), 201)
	create(t, o, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	create(t, o, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "sec"}})
	create(t, o, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "fixed"}, Immutable: new(true), Data: map[string]string{"a": "b"}})
	before := everything(t, o)
	all := manifestsOf(t, "testdata/invalid.yaml")
	if len(all) < 60 {
		t.Errorf("there are only %d manifests", len(all))
	}
	for _, m := range all {
		t.Run(m.title, func(t *testing.T) {
			var head metav1.PartialObjectMetadata
			_ = yaml.Unmarshal([]byte(m.text), &head.TypeMeta) // what comes of the rest is what is tested
			var named struct {
				Metadata struct{ Name string }
			}
			_ = yaml.Unmarshal([]byte(m.text), &named)
			gvk := schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
			r := api.ResourceForKind(gvk)
			if r == nil || m.says == "" {
				t.Fatalf("%+v is no manifest", m)
			}
			path := "/" + rootOf(r) + "/" + r.Plural
			if r.Namespaced {
				path = "/" + rootOf(r) + "/namespaces/d/" + r.Plural
			}
			method, ct := "POST", "Content-Type: application/yaml"
			if m.verb != "create" {
				method, path = "PUT", path+"/"+named.Metadata.Name
			}
			if m.verb == "apply" {
				method, ct = "PATCH", applyType
			}
			w := ask(t, h, method, path+"?fieldValidation=Strict&fieldManager=kubectl", m.text, ct)
			st := status(t, w)
			if w.Code < 400 || w.Code >= 500 || !strings.Contains(st.Message, m.says) {
				t.Errorf("got %d %q\nwant %q", w.Code, st.Message, m.says)
			}
			if st.Reason == metav1.StatusReasonInvalid && len(st.Details.Causes) == 0 {
				t.Errorf("%q has no causes", st.Message)
			}
		})
	}
	if d := cmp.Diff(before, everything(t, o)); d != "" {
		t.Errorf("what was refused has changed the store:\n%s", d)
	}
}
