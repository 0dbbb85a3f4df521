package seamtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// patience is how long something that has to happen may take.
const patience = 20 * time.Second

// Objects checks an api.Objects. open makes an empty one for each part and
// cleans up with t. The suite makes the namespaces that it uses; it does not
// mind objects in others. It writes several thousand objects when the
// implementation keeps a long history.
func Objects(t *testing.T, open func(t *testing.T) api.Objects) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*suite)
	}{
		{"CreateFillsAndRefuses", createFillsAndRefuses},
		{"CreateGeneratesNames", createGeneratesNames},
		{"CreateStartsStatus", createStartsStatus},
		{"EveryKind", everyKind},
		{"NotFound", notFound},
		{"UpdateComparesAndSwaps", updateComparesAndSwaps},
		{"UpdateKeepsServerFields", updateKeepsServerFields},
		{"UpdateWithoutChange", updateWithoutChange},
		{"StatusIsApart", statusIsApart},
		{"Patches", patches},
		{"PatchRefuses", patchRefuses},
		{"DeletePreconditions", deletePreconditions},
		{"Finalizers", finalizers},
		{"Propagation", propagation},
		{"PodDeletionHasTwoPhases", podDeletionHasTwoPhases},
		{"PodDeletionAtOnce", podDeletionAtOnce},
		{"NamespaceDeletion", namespaceDeletion},
		{"ListSelects", listSelects},
		{"ListPages", listPages},
		{"ListPageExpires", listPageExpires},
		{"WatchBegins", watchBegins},
		{"WatchInOrder", watchInOrder},
		{"WatchResumes", watchResumes},
		{"WatchFromList", watchFromList},
		{"WatchSelects", watchSelects},
		{"WatchEnds", watchEnds},
		{"WatchTooOld", watchTooOld},
		{"WatchSlowReader", watchSlowReader},
		{"WatchesConverge", watchesConverge},
		{"WritersLoseNothing", writersLoseNothing},
		{"CreateOnce", createOnce},
		{"ReadsSeeOwnWrites", readsSeeOwnWrites},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := &suite{T: t, o: open(t), ns: "seam"}
			s.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}})
			part.run(s)
		})
	}
}

// suite is one part at work, in a namespace of its own.
type suite struct {
	*testing.T
	o  api.Objects
	ns string
}

func (s *suite) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.ns, Name: name}
}

func (s *suite) configMap(name string, kv ...string) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: s.meta(name), Data: map[string]string{}}
	for i := 0; i+1 < len(kv); i += 2 {
		cm.Data[kv[i]] = kv[i+1]
	}
	return cm
}

func (s *suite) pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: s.meta(name),
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "main", Image: "example/image:1"}},
		},
	}
}

func create[T api.Object](s *suite, obj T) T {
	s.Helper()
	got, err := api.Create(s.Context(), s.o, obj)
	if err != nil {
		s.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
	}
	return got
}

func (s *suite) create(obj api.Object) api.Object {
	s.Helper()
	return create(s, obj)
}

func update[T api.Object](s *suite, obj T) T {
	s.Helper()
	got, err := api.Update(s.Context(), s.o, obj, api.UpdateOptions{})
	if err != nil {
		s.Fatalf("update %T %s: %v", obj, obj.GetName(), err)
	}
	return got
}

func (s *suite) updateStatus(obj api.Object) api.Object {
	s.Helper()
	got, err := s.o.Update(s.Context(), obj, api.UpdateOptions{Subresource: "status"})
	if err != nil {
		s.Fatalf("update the status of %T %s: %v", obj, obj.GetName(), err)
	}
	return got
}

func (s *suite) get(r *api.Resource, name string) api.Object {
	s.Helper()
	got, err := s.o.Get(s.Context(), r, s.ns, name)
	if err != nil {
		s.Fatalf("get %s %s: %v", r, name, err)
	}
	return got
}

func (s *suite) delete(r *api.Resource, name string, o api.DeleteOptions) api.Object {
	s.Helper()
	got, err := s.o.Delete(s.Context(), r, s.ns, name, o)
	if err != nil {
		s.Fatalf("delete %s %s: %v", r, name, err)
	}
	return got
}

func (s *suite) list(r *api.Resource, o api.ListOptions) api.List {
	s.Helper()
	if o.Namespace == "" {
		o.Namespace = s.ns
	}
	l, err := s.o.List(s.Context(), r, o)
	if err != nil {
		s.Fatalf("list %s: %v", r, err)
	}
	return l
}

// want fails when err is not of the class that is tests for.
func (s *suite) want(is func(error) bool, class string, err error) {
	s.Helper()
	if !is(err) {
		s.Fatalf("got error %v, want %s", err, class)
	}
}

func (s *suite) gone(r *api.Resource, name string) {
	s.Helper()
	if got, err := s.o.Get(s.Context(), r, s.ns, name); err == nil {
		s.Fatalf("%s %s is still there at %s, want NotFound", r, name, got.GetResourceVersion())
	}
}

// changed is a private copy of obj with f done to it.
func changed[T api.Object](obj T, f func(T)) T {
	next := obj.DeepCopyObject().(T)
	f(next)
	return next
}

func names(items []api.Object) []string {
	out := make([]string, len(items))
	for i, o := range items {
		out[i] = o.GetName()
	}
	return out
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s-%05d", prefix, i) }
