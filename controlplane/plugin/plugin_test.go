package plugin_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/plugin"
	"github.com/podsnap/podsnap/test/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a store whose writes the plugins judge, in a bubble.
type rig struct {
	t *testing.T
	api.Objects
	dry rules.Admit
}

func run(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	runWith(t, nil, f)
}

func runWith(t *testing.T, log *slog.Logger, f func(t *testing.T, r *rig)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		p := plugin.New(plugin.Config{Log: log})
		store := memory.New(memory.Config{Admit: p.Admit(admission.Admit)})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx, store); err != nil {
				t.Error(err)
			}
		})
		defer wg.Wait()
		defer cancel()
		f(t, &rig{t: t, Objects: p.Objects(store), dry: p.Judge(admission.Admit)})
	})
}

func (r *rig) make(objs ...api.Object) {
	r.t.Helper()
	for _, o := range objs {
		if _, err := r.Create(r.t.Context(), o); err != nil {
			r.t.Fatal(err)
		}
	}
	synctest.Wait()
}

// refused creates what must not be, and answers with why not.
func (r *rig) refused(o api.Object) string {
	r.t.Helper()
	_, err := r.Create(r.t.Context(), o)
	if !apierrors.IsForbidden(err) {
		r.t.Fatalf("%s was answered %v, want Forbidden", o.GetName(), err)
	}
	return err.Error()
}

func (r *rig) used(name string) string {
	r.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	q, err := api.Get[*corev1.ResourceQuota](r.t.Context(), r, api.ResourceQuotas, "d", name)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, n := range []corev1.ResourceName{"pods", "count/pods", "cpu", "requests.cpu", "limits.memory", "services.nodeports", "requests.storage"} {
		if v, ok := q.Status.Used[n]; ok {
			out = append(out, fmt.Sprintf("%s=%s", n, v.String()))
		}
	}
	return strings.Join(out, " ")
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "d", Name: name} }

func list(kv ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(kv); i += 2 {
		l[corev1.ResourceName(kv[i])] = resource.MustParse(kv[i+1])
	}
	return l
}

func quotaOf(name string, hard corev1.ResourceList, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: meta(name), Spec: corev1.ResourceQuotaSpec{Hard: hard, Scopes: scopes}}
}

func pod(name string, requests, limits corev1.ResourceList) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
	}}}}
}

func TestQuotaIsNotOverrun(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("q", list("pods", "10")), pod("before", nil, nil))
		var wg sync.WaitGroup
		var mu sync.Mutex
		made, refused := 0, map[string]int{}
		for i := range 40 {
			wg.Go(func() {
				_, err := r.Create(t.Context(), pod(fmt.Sprint("p", i), nil, nil))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else {
					_, why, _ := strings.Cut(err.Error(), "is forbidden: ")
					refused[why]++
				}
			})
		}
		wg.Wait()
		const want = "exceeded quota: q, requested: pods=1, used: pods=10, limited: pods=10"
		if made != 9 || refused[want] != 31 {
			t.Errorf("%d were made, refused %v; want 9 and 31 of %q", made, refused, want)
		}
		if got := r.used("q"); got != "pods=10" {
			t.Errorf("used %s, want 10 pods", got)
		}
		if _, err := r.Delete(t.Context(), api.Pods, "d", "before", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.make(pod("next", nil, nil))
	})
}

// What was let through and came to nothing takes no room.
func TestRefusedWritesTakeNoRoom(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("q", list("pods", "2")), pod("a", nil, nil))
		for range 5 {
			if _, err := r.Create(t.Context(), pod("a", nil, nil)); !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
		r.make(pod("b", nil, nil))
		if got := r.used("q"); got != "pods=2" {
			t.Errorf("used %s", got)
		}
	})
}

func TestQuotasOfCompute(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("c", list("requests.cpu", "1", "limits.memory", "1Gi", "cpu", "1")))
		if got, want := r.refused(pod("p", list("cpu", "1"), nil)), `pods "p" is forbidden: failed quota: c: must specify limits.memory for: c`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		r.make(pod("p", list("cpu", "700m"), list("memory", "600Mi")))
		got := r.refused(pod("o", list("cpu", "500m"), list("memory", "600Mi")))
		want := `pods "o" is forbidden: exceeded quota: c, requested: cpu=500m,limits.memory=600Mi,requests.cpu=500m, used: cpu=700m,limits.memory=600Mi,requests.cpu=700m, limited: cpu=1,limits.memory=1Gi,requests.cpu=1`
		if got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if got := r.used("c"); got != "cpu=700m requests.cpu=700m limits.memory=600Mi" {
			t.Errorf("used %s", got)
		}
		// A pod that has ended uses nothing.
		_, err := api.Mutate(t.Context(), r, api.Pods, "d", "p", api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
			p.Status.Phase = corev1.PodSucceeded
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.make(pod("o", list("cpu", "500m"), list("memory", "600Mi")))
		if got := r.used("c"); got != "cpu=500m requests.cpu=500m limits.memory=600Mi" {
			t.Errorf("used %s", got)
		}
	})
}

func TestQuotasOfServicesAndClaims(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("s", list("services.nodeports", "1", "count/configmaps", "1", "requests.storage", "3Gi", "gold.storageclass.storage.k8s.io/requests.storage", "1Gi")))
		service := func(name string, kind corev1.ServiceType, ports ...int32) *corev1.Service {
			s := &corev1.Service{ObjectMeta: meta(name), Spec: corev1.ServiceSpec{Type: kind}}
			for _, p := range ports {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", p), Port: p})
			}
			return s
		}
		r.make(service("a", corev1.ServiceTypeClusterIP, 1, 2), service("b", corev1.ServiceTypeNodePort, 1))
		if got := r.refused(service("c", corev1.ServiceTypeLoadBalancer, 1)); !strings.Contains(got, "exceeded quota: s, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1") {
			t.Error(got)
		}
		_, err := api.Mutate(t.Context(), r, api.Services, "d", "a", api.UpdateOptions{}, func(s *corev1.Service) (bool, error) {
			s.Spec.Type = corev1.ServiceTypeNodePort
			return true, nil
		})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "requested: services.nodeports=2") {
			t.Errorf("a Service that becomes one of node ports: %v", err)
		}
		r.make(&corev1.ConfigMap{ObjectMeta: meta("m")})
		if got := r.refused(&corev1.ConfigMap{ObjectMeta: meta("n")}); !strings.Contains(got, "requested: count/configmaps=1") {
			t.Error(got)
		}
		claim := func(name, class, size string) *corev1.PersistentVolumeClaim {
			return &corev1.PersistentVolumeClaim{ObjectMeta: meta(name), Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)},
			}}
		}
		r.make(claim("a", "local", "2Gi"))
		if got := r.refused(claim("b", "gold", "2Gi")); !strings.Contains(got, "gold.storageclass.storage.k8s.io/requests.storage=2Gi") || !strings.Contains(got, "used: gold.storageclass.storage.k8s.io/requests.storage=0,requests.storage=2Gi") {
			t.Error(got)
		}
	})
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		scope   corev1.ResourceQuotaScope
		in, out func(*corev1.Pod)
	}{
		{corev1.ResourceQuotaScopeTerminating, deadline, nothing},
		{corev1.ResourceQuotaScopeNotTerminating, nothing, deadline},
		{corev1.ResourceQuotaScopeBestEffort, nothing, asking},
		{corev1.ResourceQuotaScopeNotBestEffort, asking, nothing},
		{corev1.ResourceQuotaScopePriorityClass, classed, nothing},
	} {
		t.Run(string(c.scope), func(t *testing.T) {
			run(t, func(t *testing.T, r *rig) {
				r.make(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000}, quotaOf("q", list("pods", "1"), c.scope))
				in, out := pod("in", nil, nil), pod("out", nil, nil)
				c.in(in)
				c.out(out)
				r.make(in, out)
				again := pod("again", nil, nil)
				c.in(again)
				if got := r.refused(again); !strings.Contains(got, "exceeded quota: q") {
					t.Error(got)
				}
				if got := r.used("q"); got != "pods=1" {
					t.Errorf("used %s", got)
				}
			})
		})
	}
}

func nothing(*corev1.Pod)    {}
func deadline(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(5)) }
func classed(p *corev1.Pod)  { p.Spec.PriorityClassName = "high" }
func asking(p *corev1.Pod)   { p.Spec.Containers[0].Resources.Requests = list("cpu", "1m") }

// The status is put right whatever somebody writes into it, a quota that is raised
// lets more through, and one that is deleted all.
func TestStatusCorrectsItself(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("q", list("pods", "1")), pod("a", nil, nil))
		change := func(sub string, f func(q *corev1.ResourceQuota)) {
			t.Helper()
			_, err := api.Mutate(t.Context(), r, api.ResourceQuotas, "d", "q", api.UpdateOptions{Subresource: sub}, func(q *corev1.ResourceQuota) (bool, error) {
				f(q)
				return true, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		change("status", func(q *corev1.ResourceQuota) { q.Status.Used = list("pods", "77") })
		if got := r.used("q"); got != "pods=1" {
			t.Errorf("used %s", got)
		}
		change("", func(q *corev1.ResourceQuota) { q.Spec.Hard = list("pods", "2", "count/pods", "9") })
		r.make(pod("b", nil, nil))
		if got := r.used("q"); got != "pods=2 count/pods=2" {
			t.Errorf("used %s", got)
		}
		if _, err := r.Delete(t.Context(), api.ResourceQuotas, "d", "q", api.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.make(pod("c", nil, nil))
	})
}

func TestDryRunCountsNothing(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(quotaOf("q", list("pods", "1")))
		for range 3 {
			p := pod("a", nil, nil)
			p.UID = "u"
			if err := r.dry(t.Context(), rules.OpCreate, api.Pods, nil, p, ""); err != nil {
				t.Fatal(err)
			}
		}
		r.make(pod("a", nil, nil))
		if err := r.dry(t.Context(), rules.OpCreate, api.Pods, nil, pod("b", nil, nil), ""); !apierrors.IsForbidden(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestLimitRanges(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.make(&corev1.LimitRange{ObjectMeta: meta("l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Min: list("cpu", "50m"), Max: list("cpu", "1", "memory", "1Gi"), DefaultRequest: list("cpu", "100m"), MaxLimitRequestRatio: list("memory", "2")},
			{Type: corev1.LimitTypePod, Max: list("cpu", "2")},
			{Type: corev1.LimitTypePersistentVolumeClaim, Max: list("storage", "2Gi")},
		}}})
		r.make(pod("p", nil, nil))
		p, err := api.Get[*corev1.Pod](t.Context(), r, api.Pods, "d", "p")
		if err != nil {
			t.Fatal(err)
		}
		res := p.Spec.Containers[0].Resources
		if !res.Requests.Cpu().Equal(resource.MustParse("100m")) || !res.Limits.Cpu().Equal(resource.MustParse("1")) || !res.Limits.Memory().Equal(resource.MustParse("1Gi")) || !res.Requests.Memory().Equal(resource.MustParse("1Gi")) {
			t.Errorf("resources %+v", res)
		}
		if got, want := p.Annotations["kubernetes.io/limit-ranger"], "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"; got != want {
			t.Errorf("annotation %q, want %q", got, want)
		}
		for _, c := range []struct {
			pod  *corev1.Pod
			want string
		}{
			{pod("a", list("cpu", "10m"), nil), "minimum cpu usage per Container is 50m, but request is 10m"},
			{pod("b", nil, list("cpu", "2")), "maximum cpu usage per Container is 1, but limit is 2"},
			{pod("c", list("memory", "100Mi"), list("memory", "500Mi")), "memory max limit to request ratio per Container is 2, but provided ratio is 5.000000"},
		} {
			if got, want := r.refused(c.pod), fmt.Sprintf("pods %q is forbidden: %s", c.pod.Name, c.want); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		many := pod("many", nil, nil)
		for i := range 2 {
			many.Spec.Containers = append(many.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "i"})
		}
		if got := r.refused(many); !strings.HasSuffix(got, "maximum cpu usage per Pod is 2, but limit is 3") {
			t.Error(got)
		}
		class := "local"
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: meta("big"), Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "3Gi")},
		}}
		if got := r.refused(claim); !strings.HasSuffix(got, "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi") {
			t.Error(got)
		}
	})
}

func TestPriorities(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		never := corev1.PreemptNever
		r.make(
			&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: &never},
			pod("before", nil, nil),
			&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 5, GlobalDefault: true},
		)
		r.make(pod("usual", nil, nil))
		high := pod("high", nil, nil)
		high.Spec.PriorityClassName = "high"
		r.make(high)
		for name, want := range map[string]string{"before": " 0 PreemptLowerPriority", "usual": "usual 5 PreemptLowerPriority", "high": "high 1000 Never"} {
			p, err := api.Get[*corev1.Pod](t.Context(), r, api.Pods, "d", name)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %d %s", p.Spec.PriorityClassName, *p.Spec.Priority, *p.Spec.PreemptionPolicy); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		wrong := pod("wrong", nil, nil)
		wrong.Spec.Priority = new(int32(7))
		if got := r.refused(wrong); !strings.HasSuffix(got, "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name") {
			t.Error(got)
		}
		wrong = pod("wrong", nil, nil)
		wrong.Spec.PriorityClassName = "none"
		if got := r.refused(wrong); !strings.HasSuffix(got, "no PriorityClass with name none was found") {
			t.Error(got)
		}
		if got := r.refused(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "other"}, GlobalDefault: true}); !strings.HasSuffix(got, "PriorityClass usual is already marked as default. Only one default can exist") {
			t.Error(got)
		}
		// An update that does not know what was worked out keeps it.
		_, err := r.Update(t.Context(), high, api.UpdateOptions{})
		if err != nil {
			t.Error(err)
		}
	})
}
