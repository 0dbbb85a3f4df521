package schedule

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	reasonSpread      = "node(s) didn't match pod topology spread constraints"
	reasonSpreadLabel = "node(s) didn't match pod topology spread constraints (missing required label)"
)

// spread is a topology spread constraint: pods that match are to be in all domains
// alike.
type spread struct {
	topology    string
	selector    labels.Selector
	skew        int
	domains     int  // that there have to be; fewer count as if one were empty
	hard        bool // else it is a wish
	self        int  // 1 when the pod itself matches
	anyAffinity bool // nodes that the pod may not be on by its affinity count, too
	taints      bool // nodes whose taints keep the pod off do not count
}

func spreads(pod *corev1.Pod) []spread {
	var out []spread
	for i := range pod.Spec.TopologySpreadConstraints {
		t := &pod.Spec.TopologySpreadConstraints[i]
		s := spread{
			topology: t.TopologyKey, selector: selectorOf(withKeys(t, pod.Labels)), skew: int(t.MaxSkew), domains: 1,
			hard:        t.WhenUnsatisfiable != corev1.ScheduleAnyway,
			anyAffinity: t.NodeAffinityPolicy != nil && *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
			taints:      t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if t.MinDomains != nil {
			s.domains = int(*t.MinDomains)
		}
		if s.selector.Matches(labels.Set(pod.Labels)) {
			s.self = 1
		}
		out = append(out, s)
	}
	return out
}

// withKeys is a constraint's selector together with the pod's own values of the
// labels that it names.
func withKeys(t *corev1.TopologySpreadConstraint, own map[string]string) *metav1.LabelSelector {
	if len(t.MatchLabelKeys) == 0 || t.LabelSelector == nil {
		return t.LabelSelector
	}
	s := t.LabelSelector.DeepCopy()
	for _, k := range t.MatchLabelKeys {
		if v, ok := own[k]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
		}
	}
	return s
}

// crowd is how many pods that match a constraint there are, by domain.
type crowd struct {
	in          map[string]int
	least, most int
}

// crowds counts for each of a pod's constraints.
func crowds(c *Cluster, r *request) []crowd {
	if len(r.spreads) == 0 {
		return nil
	}
	out := make([]crowd, len(r.spreads))
	for i := range r.spreads {
		out[i] = count(c, r, &r.spreads[i])
	}
	return out
}

func count(c *Cluster, r *request, s *spread) crowd {
	o := crowd{in: map[string]int{}}
	counts := map[*node]bool{}
	for _, n := range c.nodes {
		if v, ok := n.node.Labels[s.topology]; ok && s.includes(r, n) {
			o.in[v] += 0
			counts[n] = true
		}
	}
	for _, p := range c.pods {
		if !counts[p.node] || p.pod.Namespace != r.pod.Namespace || p.pod.DeletionTimestamp != nil || p.pod.UID == r.pod.UID || !s.selector.Matches(labels.Set(p.pod.Labels)) {
			continue
		}
		o.in[p.node.node.Labels[s.topology]]++
	}
	first := true
	for _, n := range o.in {
		if first || n < o.least {
			o.least = n
		}
		first = false
		o.most = max(o.most, n)
	}
	if len(o.in) < s.domains {
		o.least = 0
	}
	return o
}

// includes tells whether a node counts. It has to have the labels of all hard
// constraints.
func (s *spread) includes(r *request, n *node) bool {
	if s.hard && slices.ContainsFunc(r.spreads, func(o spread) bool { _, ok := n.node.Labels[o.topology]; return o.hard && !ok }) {
		return false
	}
	if !s.anyAffinity && r.selector != nil {
		if ok, err := r.selector.Match(n.node); !ok || err != nil {
			return false
		}
	}
	return !s.taints || untolerated(r.pod, n.hard) == nil
}

// uneven names the constraint's rule that keeps the pod off a node; "" is none.
func (n *neighbours) uneven(r *request, on *node) string {
	for i := range r.spreads {
		s := &r.spreads[i]
		if !s.hard {
			continue
		}
		v, ok := on.node.Labels[s.topology]
		if !ok {
			return reasonSpreadLabel
		}
		if n.crowds[i].in[v]+s.self-n.crowds[i].least > s.skew {
			return reasonSpread
		}
	}
	return ""
}

// evenness is what the wishes among the constraints say of a node: 0 for the
// emptiest place, -100 for the fullest and for those outside.
func (n *neighbours) evenness(r *request, on *node) (score int64) {
	for i := range r.spreads {
		s, c := &r.spreads[i], &n.crowds[i]
		if s.hard || c.most == c.least {
			continue
		}
		v, ok := on.node.Labels[s.topology]
		if !ok {
			score -= 100
			continue
		}
		score -= int64(100 * (c.in[v] - c.least) / (c.most - c.least))
	}
	return score
}
