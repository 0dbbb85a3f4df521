package apiserver

import (
	"context"
	"maps"
	"math"
	"net/http"
	"slices"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
	"github.com/podsnap/podsnap/controlplane/meter"
)

// The API metrics.k8s.io is what nodes and pods use now. Its objects are made when
// they are asked for: they have no versions, and cannot be watched.

// usageKinds describes its kinds to discovery.
func usageKinds() []metav1.APIResource {
	verbs := metav1.Verbs{"get", "list"}
	return []metav1.APIResource{
		{Name: "nodes", Kind: "NodeMetrics", Verbs: verbs},
		{Name: "pods", Kind: "PodMetrics", Namespaced: true, Verbs: verbs},
	}
}

func (s *Server) mountUsage() {
	root := access.MetricsRoot
	s.mux.Get(root+"/nodes", s.use(access.NodeMetrics, "list", s.nodesUse))
	s.mux.Get(root+"/nodes/{name}", s.use(access.NodeMetrics, "get", s.nodeUse))
	s.mux.Get(root+"/pods", s.use(access.PodMetrics, "list", s.podsUse))
	s.mux.Get(root+"/namespaces/{namespace}/pods", s.use(access.PodMetrics, "list", s.podsUse))
	s.mux.Get(root+"/namespaces/{namespace}/pods/{name}", s.use(access.PodMetrics, "get", s.podUse))
}

// use serves what f answers.
func (s *Server) use(res *api.Resource, verb string, f func(r *http.Request) (runtime.Object, error)) http.HandlerFunc {
	return s.plain(verb, "", func(w http.ResponseWriter, r *http.Request) error {
		q := access.Request{Verb: verb, Resource: res, Namespace: chi.URLParam(r, "namespace"), Name: chi.URLParam(r, "name")}
		if err := s.cfg.Gate.Allow(r.Context(), access.Of(r.Context()), q); err != nil {
			return err
		}
		form, err := s.codec.accept(r, true)
		if err != nil {
			return err
		}
		obj, err := f(r)
		if err != nil {
			return err
		}
		return s.codec.write(w, form, http.StatusOK, obj)
	})
}

func usageGR(name string) schema.GroupResource {
	return schema.GroupResource{Group: metricsv1.GroupName, Resource: name}
}

func usageType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: metricsv1.SchemeGroupVersion.String()}
}

func selection(r *http.Request) (labels.Selector, error) {
	sel, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, apierrors.NewBadRequest("labelSelector: " + err.Error())
	}
	return sel, nil
}

func (s *Server) nodesUse(r *http.Request) (runtime.Object, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	nodes, err := api.Items[*corev1.Node](r.Context(), s.cfg.Objects, api.Nodes, api.ListOptions{Labels: sel})
	if err != nil {
		return nil, err
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	out := &metricsv1.NodeMetricsList{TypeMeta: usageType("NodeMetricsList"), Items: []metricsv1.NodeMetrics{}}
	use := s.meter.Read(r.Context(), names...)
	for _, n := range nodes {
		if u, ok := use[n.Name]; ok {
			out.Items = append(out.Items, *nodeMetrics(n, u))
		}
	}
	return out, nil
}

func (s *Server) nodeUse(r *http.Request) (runtime.Object, error) {
	n, err := api.Get[*corev1.Node](r.Context(), s.cfg.Objects, api.Nodes, "", chi.URLParam(r, "name"))
	if err != nil {
		return nil, err
	}
	u, ok := s.meter.Read(r.Context(), n.Name)[n.Name]
	if !ok {
		return nil, apierrors.NewServiceUnavailable("node " + n.Name + " does not say what it uses")
	}
	return nodeMetrics(n, u), nil
}

func nodeMetrics(n *corev1.Node, u meter.Node) *metricsv1.NodeMetrics {
	return &metricsv1.NodeMetrics{
		TypeMeta: usageType("NodeMetrics"), ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: n.Labels, CreationTimestamp: metav1.NewTime(u.Time)},
		Timestamp: metav1.NewTime(u.Time), Window: metav1.Duration{Duration: u.Window}, Usage: resources(u.Use),
	}
}

// resources has the units that other programs expect.
func resources(u meter.Use) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(math.Round(u.Milli*1e6)), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(u.Memory), resource.BinarySI),
	}
}

func (s *Server) podsUse(r *http.Request) (runtime.Object, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	pods, err := api.Items[*corev1.Pod](r.Context(), s.cfg.Objects, api.Pods, api.ListOptions{Namespace: chi.URLParam(r, "namespace"), Labels: sel})
	if err != nil {
		return nil, err
	}
	out := &metricsv1.PodMetricsList{TypeMeta: usageType("PodMetricsList"), Items: []metricsv1.PodMetrics{}}
	for _, m := range s.usesOf(r.Context(), pods) {
		out.Items = append(out.Items, *m)
	}
	return out, nil
}

func (s *Server) podUse(r *http.Request) (runtime.Object, error) {
	name := chi.URLParam(r, "name")
	p, err := api.Get[*corev1.Pod](r.Context(), s.cfg.Objects, api.Pods, chi.URLParam(r, "namespace"), name)
	if err != nil {
		return nil, err
	}
	got := s.usesOf(r.Context(), []*corev1.Pod{p})
	if len(got) == 0 {
		return nil, apierrors.NewNotFound(usageGR("pods"), name)
	}
	return got[0], nil
}

// usesOf is the use of those of some pods that have run for long enough.
func (s *Server) usesOf(ctx context.Context, pods []*corev1.Pod) []*metricsv1.PodMetrics {
	nodes := map[string]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" && p.Status.Phase == corev1.PodRunning {
			nodes[p.Spec.NodeName] = true
		}
	}
	use := s.meter.Read(ctx, slices.Sorted(maps.Keys(nodes))...)
	var out []*metricsv1.PodMetrics
	for _, p := range pods {
		n := use[p.Spec.NodeName]
		u, ok := n.Pods[p.UID]
		if !ok {
			continue
		}
		m := &metricsv1.PodMetrics{
			TypeMeta:   usageType("PodMetrics"),
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, CreationTimestamp: metav1.NewTime(n.Time)},
			Timestamp:  metav1.NewTime(n.Time), Window: metav1.Duration{Duration: n.Window},
		}
		for _, c := range slices.Sorted(maps.Keys(u.Containers)) {
			m.Containers = append(m.Containers, metricsv1.ContainerMetrics{Name: c, Usage: resources(u.Containers[c])})
		}
		out = append(out, m)
	}
	return out
}
