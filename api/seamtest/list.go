package seamtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

func listSelects(s *suite) {
	create(s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "seam-b"}})
	for _, p := range []*corev1.Pod{s.pod("c", "n1"), s.pod("a", "n2"), s.pod("b", "n1")} {
		p.Labels = map[string]string{"app": p.Name}
		create(s, p)
	}
	other := s.pod("a", "n1")
	other.Namespace = "seam-b"
	create(s, other)
	for _, c := range []struct {
		o    api.ListOptions
		want []string
	}{
		{api.ListOptions{}, []string{"seam/a", "seam/b", "seam/c", "seam-b/a"}},
		{api.ListOptions{Namespace: s.ns}, []string{"seam/a", "seam/b", "seam/c"}},
		{api.ListOptions{Namespace: "none"}, nil},
		{api.ListOptions{Labels: selector(s.T, "app in (a,c)")}, []string{"seam/a", "seam/c"}},
		{api.ListOptions{Labels: labels.Nothing()}, nil},
		{api.ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}, []string{"seam/b", "seam/c", "seam-b/a"}},
		{api.ListOptions{Namespace: s.ns, Labels: selector(s.T, "app!=b"), Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}, []string{"seam/c"}},
		{api.ListOptions{Fields: fields.OneTermEqualSelector("metadata.name", "a"), Limit: 1}, []string{"seam/a"}},
	} {
		l, err := s.o.List(s.Context(), api.Pods, c.o)
		if err != nil {
			s.Fatal(err)
		}
		var got []string
		for _, o := range l.Items {
			got = append(got, o.GetNamespace()+"/"+o.GetName())
		}
		if d := cmp.Diff(c.want, got); d != "" {
			s.Errorf("%+v (-want +got):\n%s", c.o, d)
		}
		if l.ResourceVersion == "" || l.ResourceVersion == "0" {
			s.Errorf("%+v: the list's resourceVersion is %q", c.o, l.ResourceVersion)
		}
	}
}

func selector(t *testing.T, s string) labels.Selector {
	t.Helper()
	l, err := labels.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listPages checks that pages show one moment, whatever is written between.
func listPages(s *suite) {
	var want []string
	for i := range 10 {
		create(s, s.configMap(numbered("cm", i), "n", "old"))
		want = append(want, numbered("cm", i))
	}
	first := s.list(api.ConfigMaps, api.ListOptions{Limit: 4})
	if len(first.Items) != 4 || first.Continue == "" || first.Remaining != 6 {
		s.Fatalf("first page: %d items, continue %q, remaining %d", len(first.Items), first.Continue, first.Remaining)
	}
	s.delete(api.ConfigMaps, numbered("cm", 5), api.DeleteOptions{})
	create(s, s.configMap("cm-00004a"))
	update(s, s.configMap(numbered("cm", 7), "n", "new"))
	got := first.Items
	for token := first.Continue; token != ""; {
		l := s.list(api.ConfigMaps, api.ListOptions{Limit: 4, Continue: token})
		if l.ResourceVersion != first.ResourceVersion {
			s.Fatalf("a later page is as of %s, the first was as of %s", l.ResourceVersion, first.ResourceVersion)
		}
		got = append(slices.Clip(got), l.Items...)
		token = l.Continue
	}
	if d := cmp.Diff(want, names(got)); d != "" {
		s.Fatalf("pages (-want +got):\n%s", d)
	}
	for _, o := range got {
		if o.(*corev1.ConfigMap).Data["n"] != "old" {
			s.Errorf("%s shows a state that came after the first page", o.GetName())
		}
	}
	if l := s.list(api.ConfigMaps, api.ListOptions{Limit: 10}); l.Continue != "" || len(l.Items) != 10 {
		s.Fatalf("a list that just fits: %d items, continue %q", len(l.Items), l.Continue)
	}
	_, err := s.o.List(s.Context(), api.ConfigMaps, api.ListOptions{Continue: "?"})
	s.want(apierrors.IsBadRequest, "BadRequest for a bad token", err)
}

func listPageExpires(s *suite) {
	for i := range 4 {
		create(s, s.configMap(numbered("cm", i)))
	}
	first := s.list(api.ConfigMaps, api.ListOptions{Limit: 2})
	err := s.age(func() error {
		_, err := s.o.List(s.Context(), api.ConfigMaps, api.ListOptions{Namespace: s.ns, Limit: 2, Continue: first.Continue})
		return err
	})
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().ListMeta.Continue == "" {
		s.Fatalf("%v carries no token for going on with the present state", err)
	}
	rest := s.list(api.ConfigMaps, api.ListOptions{Limit: 10, Continue: status.Status().ListMeta.Continue})
	if d := cmp.Diff([]string{numbered("cm", 2), numbered("cm", 3)}, names(rest.Items)); d != "" {
		s.Fatalf("the rest (-want +got):\n%s", d)
	}
	if rest.ResourceVersion == first.ResourceVersion {
		s.Fatalf("the rest is as of the expired revision %s", rest.ResourceVersion)
	}
}

// age writes ConfigMaps until ask answers that something has expired.
func (s *suite) age(ask func() error) error {
	s.Helper()
	for i := range 20_000 {
		update0(s, "cm-00000", fmt.Sprint(i))
		if i%64 != 0 {
			continue
		}
		if err := ask(); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return err
		} else if err != nil {
			s.Fatalf("got %v, want no error or Expired", err)
		}
	}
	s.Fatal("20000 changes later it has not expired: the history is not bounded")
	return nil
}

func update0(s *suite, name, value string) api.Object {
	s.Helper()
	return update(s, s.configMap(name, "n", value))
}
