package schedule

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is a pod affinity term: pods that match, nearness by a node label.
type term struct {
	selector   labels.Selector
	namespaces []string
	nsSelector labels.Selector // nil: only namespaces count
	topology   string
}

// weighted is a preferred term; negative weights repel.
type weighted struct {
	term
	weight int64
}

func terms(pod *corev1.Pod, a *corev1.Affinity) (affinity, anti []term, wishes []weighted) {
	if p := a.PodAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			affinity = append(affinity, newTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		for _, w := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			wishes = append(wishes, weighted{newTerm(pod, &w.PodAffinityTerm), int64(w.Weight)})
		}
	}
	if p := a.PodAntiAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			anti = append(anti, newTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		for _, w := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			wishes = append(wishes, weighted{newTerm(pod, &w.PodAffinityTerm), -int64(w.Weight)})
		}
	}
	return affinity, anti, wishes
}

func newTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm) term {
	o := term{namespaces: t.Namespaces, topology: t.TopologyKey, selector: selectorOf(t.LabelSelector)}
	if t.NamespaceSelector != nil {
		o.nsSelector = selectorOf(t.NamespaceSelector)
	} else if len(o.namespaces) == 0 {
		o.namespaces = []string{pod.Namespace}
	}
	return o
}

// selectorOf is s as a selector: nil matches nothing, and so does one that
// doesn't parse (the API refuses those).
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

func (t *term) matches(c *Cluster, pod *corev1.Pod) bool {
	if !slices.Contains(t.namespaces, pod.Namespace) &&
		(t.nsSelector == nil || !t.nsSelector.Matches(c.namespaces[pod.Namespace])) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

// place is a topology domain.
type place struct{ key, value string }

// neighbours is what the affinity terms of one pod come to in a cluster.
type neighbours struct {
	near   []map[string]bool // per required term: values of its topology label where a match is
	alone  bool              // nothing matches any required term and the pod matches its own: it may begin
	far    map[place]bool    // forbidden by the pod's own anti-affinity
	barred map[place]bool    // forbidden by the anti-affinity of pods that are there
	liked  map[place]int64   // by preferred terms
	crowds []crowd           // per topology spread constraint
}

// look walks the assigned pods once; pods without any affinity in a cluster
// without any anti-affinity cost nothing.
func look(c *Cluster, r *request) *neighbours {
	if len(r.affinity)+len(r.antiAffinity)+len(r.wishes)+len(r.spreads)+len(c.anti) == 0 {
		return nil
	}
	n := &neighbours{far: map[place]bool{}, barred: map[place]bool{}, liked: map[place]int64{}, crowds: crowds(c, r)}
	for _, p := range c.anti {
		for i := range p.r.antiAffinity {
			t := &p.r.antiAffinity[i]
			if v, ok := p.domain(t.topology); ok && t.matches(c, r.pod) {
				n.barred[place{t.topology, v}] = true
			}
		}
	}
	if len(r.affinity)+len(r.antiAffinity)+len(r.wishes) == 0 {
		return n
	}
	n.near = make([]map[string]bool, len(r.affinity))
	found := false
	for i := range r.affinity {
		n.near[i] = map[string]bool{}
	}
	for _, p := range c.pods {
		for i := range r.affinity {
			if v, ok := p.domain(r.affinity[i].topology); ok && r.affinity[i].matches(c, p.pod) {
				n.near[i][v], found = true, true
			}
		}
		for i := range r.antiAffinity {
			if v, ok := p.domain(r.antiAffinity[i].topology); ok && r.antiAffinity[i].matches(c, p.pod) {
				n.far[place{r.antiAffinity[i].topology, v}] = true
			}
		}
		for i := range r.wishes {
			w := &r.wishes[i]
			if v, ok := p.domain(w.topology); ok && w.matches(c, p.pod) {
				n.liked[place{w.topology, v}] += w.weight
			}
		}
	}
	n.alone = !found
	for i := range r.affinity {
		n.alone = n.alone && r.affinity[i].matches(c, r.pod)
	}
	return n
}

func (p *placed) domain(key string) (string, bool) {
	if p.node.node == nil {
		return "", false
	}
	v, ok := p.node.node.Labels[key]
	return v, ok
}

// forbids names the rule that keeps the pod off a node; "" is none.
func (n *neighbours) forbids(r *request, on *node) string {
	if n == nil {
		return ""
	}
	l := on.node.Labels
	for i := range r.affinity {
		v, ok := l[r.affinity[i].topology]
		if !ok || !n.alone && !n.near[i][v] {
			return reasonAffinity
		}
	}
	for i := range r.antiAffinity {
		if v, ok := l[r.antiAffinity[i].topology]; ok && n.far[place{r.antiAffinity[i].topology, v}] {
			return reasonAntiAffinity
		}
	}
	for p := range n.barred {
		if v, ok := l[p.key]; ok && v == p.value {
			return reasonExistingAntiAffinity
		}
	}
	return n.uneven(r, on)
}

func (n *neighbours) score(r *request, on *node) int64 {
	if n == nil {
		return 0
	}
	var s int64
	for p, w := range n.liked {
		if v, ok := on.node.Labels[p.key]; ok && v == p.value {
			s += w
		}
	}
	return s + n.evenness(r, on)
}
