package rules_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, UID: "u1", ResourceVersion: "7", Generation: 1, Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "main", Image: "x"}}},
	}
}

// TestPodGrace goes through what a delete does to a pod, by its state and the
// grace period that is asked for.
func TestPodGrace(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	marked := func(grace int64, ago time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			until := metav1.NewTime(now.Truncate(time.Second).Add(-ago).Add(time.Duration(grace) * time.Second))
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &until, &grace
		}
	}
	type result struct {
		What  string
		Grace int64
		Until time.Duration // after now
	}
	for name, c := range map[string]struct {
		pod  func(*corev1.Pod)
		ask  *int64
		want result
	}{
		"default":              {func(*corev1.Pod) {}, nil, result{"marked", 30, 30 * time.Second}},
		"its own":              {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(7)) }, nil, result{"marked", 7, 7 * time.Second}},
		"its own is 0":         {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(0)) }, nil, result{"marked", 1, time.Second}},
		"asked":                {func(*corev1.Pod) {}, new(int64(3)), result{"marked", 3, 3 * time.Second}},
		"asked for none":       {func(*corev1.Pod) {}, new(int64(0)), result{What: "removed"}},
		"asked for less":       {func(*corev1.Pod) {}, new(int64(-1)), result{"marked", 1, time.Second}},
		"unbound":              {func(p *corev1.Pod) { p.Spec.NodeName = "" }, new(int64(60)), result{What: "removed"}},
		"succeeded":            {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil, result{What: "removed"}},
		"again":                {marked(30, 10*time.Second), nil, result{What: "unchanged"}},
		"again, longer":        {marked(30, 10*time.Second), new(int64(40)), result{What: "unchanged"}},
		"again, shorter":       {marked(30, 10*time.Second), new(int64(12)), result{"marked", 12, 2 * time.Second}},
		"again, at once":       {marked(30, 10*time.Second), new(int64(0)), result{What: "removed"}},
		"ended since":          {func(p *corev1.Pod) { marked(30, 0)(p); p.Status.Phase = corev1.PodFailed }, nil, result{What: "removed"}},
		"at once, held":        {func(p *corev1.Pod) { p.Finalizers = []string{"x.dev/y"} }, new(int64(0)), result{"marked", 0, 0}},
		"again at once, held":  {func(p *corev1.Pod) { marked(0, 0)(p); p.Finalizers = []string{"x.dev/y"} }, new(int64(0)), result{What: "unchanged"}},
		"again for good, held": {func(p *corev1.Pod) { marked(30, 0)(p); p.Finalizers = []string{"x.dev/y"} }, new(int64(0)), result{"marked", 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod("p")
			c.pod(p)
			before := p.DeepCopy()
			v, err := rules.Delete(rules.Facts{Now: now}, p, api.DeleteOptions{GracePeriodSeconds: c.ask})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, p); d != "" {
				t.Fatalf("the argument was changed:\n%s", d)
			}
			var got result
			switch next := v.Object.(*corev1.Pod); {
			case v.Remove:
				got.What = "removed"
			case v.Unchanged:
				got.What = "unchanged"
			default:
				got = result{"marked", *next.DeletionGracePeriodSeconds, next.DeletionTimestamp.Sub(now.Truncate(time.Second))}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Fatalf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPropagationFinalizers(t *testing.T) {
	const other = "x.dev/y"
	for _, c := range []struct {
		have   []string
		policy metav1.DeletionPropagation
		want   []string
	}{
		{nil, metav1.DeletePropagationForeground, []string{api.FinalizerForeground}},
		{[]string{api.FinalizerOrphan, other}, metav1.DeletePropagationForeground, []string{other, api.FinalizerForeground}},
		{[]string{api.FinalizerForeground}, metav1.DeletePropagationForeground, []string{api.FinalizerForeground}},
		{[]string{other}, metav1.DeletePropagationOrphan, []string{other, api.FinalizerOrphan}},
		{[]string{api.FinalizerForeground, other, api.FinalizerOrphan}, metav1.DeletePropagationBackground, []string{other}},
		{[]string{api.FinalizerForeground, other}, "", []string{api.FinalizerForeground, other}},
	} {
		old := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "x", Finalizers: c.have}}
		v, err := rules.Delete(rules.Facts{Now: time.Unix(9, 0)}, old, api.DeleteOptions{Propagation: c.policy})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, v.Object.GetFinalizers()); d != "" || v.Remove {
			t.Errorf("%v with %q: removed %v (-want +got):\n%s", c.have, c.policy, v.Remove, d)
		}
	}
}

// Every kind has the shape that the rules rely on: what Status says of it is
// true of its type.
func TestEveryKindHasTheShape(t *testing.T) {
	for _, r := range api.Resources {
		obj := r.New()
		obj.SetNamespace(map[bool]string{true: "a"}[r.Namespaced])
		obj.SetName("x")
		made, err := rules.Create(rules.Facts{Now: time.Unix(9, 5), UID: "u"}, obj, nil)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		if obj.GetUID() != "" {
			t.Errorf("%s: the argument was changed", r)
		}
		v, err := rules.Update(made, made, api.UpdateOptions{}, nil)
		if err != nil || !v.Unchanged || v.Object != made {
			t.Errorf("%s: an update without a change gave %+v, %v", r, v, err)
		}
		next := made.DeepCopyObject().(api.Object)
		next.SetAnnotations(map[string]string{"a": "b"})
		v, err = rules.Update(made, next, api.UpdateOptions{}, nil)
		if err != nil || v.Unchanged || v.Object.GetGeneration() != 1 {
			t.Errorf("%s: an update of annotations gave %+v, %v", r, v, err)
		}
		if _, err = rules.Update(made, made, api.UpdateOptions{Subresource: "status"}, nil); (err == nil) != r.Status {
			t.Errorf("%s: has a status: %v, but its update answered %v", r, r.Status, err)
		}
		if c := rules.WithRevision(made, "5"); c.GetResourceVersion() != "5" || made.GetResourceVersion() != "" {
			t.Errorf("%s: WithRevision gave %q and left %q", r, c.GetResourceVersion(), made.GetResourceVersion())
		}
	}
}

func TestQOS(t *testing.T) {
	res := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for name, v := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if v != "" {
				l[name] = resource.MustParse(v)
			}
		}
		return l
	}
	for _, c := range []struct {
		requests, limits corev1.ResourceList
		want             corev1.PodQOSClass
	}{
		{nil, nil, corev1.PodQOSBestEffort},
		{res("0", ""), nil, corev1.PodQOSBestEffort},
		{res("1", ""), nil, corev1.PodQOSBurstable},
		{nil, res("1", ""), corev1.PodQOSBurstable},
		{nil, res("1", "1Gi"), corev1.PodQOSGuaranteed},
		{res("1000m", "1024Mi"), res("1", "1Gi"), corev1.PodQOSGuaranteed},
		{res("500m", "1Gi"), res("1", "1Gi"), corev1.PodQOSBurstable},
	} {
		p := pod("p")
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
		if got := rules.QOS(p); got != c.want {
			t.Errorf("requests %v, limits %v: got %s, want %s", c.requests, c.limits, got, c.want)
		}
	}
	two := pod("p")
	two.Spec.Containers = append(two.Spec.Containers, two.Spec.Containers[0])
	two.Spec.Containers[0].Resources.Limits = res("1", "1Gi")
	if got := rules.QOS(two); got != corev1.PodQOSBurstable {
		t.Errorf("one of two containers limited: got %s, want Burstable", got)
	}
}

// An Admit hook works on its own copy, and can't change more than the status in
// an update of that.
func TestAdmitCannotReachTheOldObject(t *testing.T) {
	old := pod("p")
	before := old.DeepCopy()
	meddle := func(_, next api.Object) error {
		p := next.(*corev1.Pod)
		p.Labels["a"], p.Spec.Containers[0].Image, p.Status.Phase = "changed", "changed", corev1.PodRunning
		return nil
	}
	in := old.DeepCopy()
	v, err := rules.Update(old, in, api.UpdateOptions{Subresource: "status"}, meddle)
	if err != nil {
		t.Fatal(err)
	}
	want := before.DeepCopy()
	want.Status.Phase = corev1.PodRunning
	if d := cmp.Diff(want, v.Object); d != "" {
		t.Fatalf("update of the status (-want +got):\n%s", d)
	}
	v, err = rules.Update(old, in, api.UpdateOptions{}, meddle)
	if err != nil || v.Object.GetGeneration() != 2 || v.Object.(*corev1.Pod).Spec.Containers[0].Image != "changed" {
		t.Fatalf("plain update: %+v, %v", v.Object, err)
	}
	if d := cmp.Diff(before, old) + cmp.Diff(before, in); d != "" {
		t.Fatalf("an argument was changed:\n%s", d)
	}
}
