package schedule

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// candidates is how many nodes are compared at most on which others could make way.
const candidates = 100

// Budget is a PodDisruptionBudget: how many of its pods may go now. Those that are
// counted already are not counted again.
type Budget struct {
	Namespace string
	Selector  labels.Selector
	Allowed   int32
	Counted   func(pod string) bool
}

// Priority is a pod's; 0 where none was worked out.
func Priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// MayPreempt tells whether a pod that fits nowhere may have others make way for it,
// and whether there are any of lower priority at all. It is cheap.
func (c *Cluster) MayPreempt(p *corev1.Pod) bool {
	if v := p.Spec.PreemptionPolicy; v != nil && *v == corev1.PreemptNever {
		return false
	}
	for priority := range c.priorities {
		if priority < Priority(p) {
			return true
		}
	}
	return false
}

// Nominate keeps room on a node from pods of lower priority, for a pod that others
// make way for.
func (c *Cluster) Nominate(p *corev1.Pod, name string) {
	c.Withdraw(p.UID)
	n := c.node(name)
	if n.nominated == nil {
		n.nominated = map[types.UID]*request{}
	}
	n.nominated[p.UID] = newRequest(p)
	c.nominees[p.UID] = n
}

// Withdraw ends that.
func (c *Cluster) Withdraw(uid types.UID) {
	if n := c.nominees[uid]; n != nil {
		delete(n.nominated, uid)
		delete(c.nominees, uid)
		c.drop(n)
	}
}

// Nominated is the node where room is kept for a pod; "" when nowhere.
func (c *Cluster) Nominated(uid types.UID) string {
	if n := c.nominees[uid]; n != nil {
		return n.name
	}
	return ""
}

// Ending tells whether pods of lower priority are about to leave a node.
func (c *Cluster) Ending(p *corev1.Pod, name string) bool {
	n := c.byName[name]
	if n == nil {
		return false
	}
	for _, o := range n.pods {
		if o.pod.DeletionTimestamp != nil && Priority(o.pod) < Priority(p) {
			return true
		}
	}
	return false
}

// taken is what is used on a node as r sees it: room that is kept for others of at
// least its priority included.
func (n *node) taken(r *request) resources {
	u := n.used
	u.other = maps.Clone(u.other)
	for uid, o := range n.nominated {
		if uid != r.pod.UID && o.priority >= r.priority {
			u.add(o.res, 1)
		}
	}
	return u
}

// Preemption is where a pod would fit, and who has to go for it.
type Preemption struct {
	Node       string
	Victims    []*corev1.Pod
	Violations int // of budgets
}

// Preempt finds the node on which the least has to make way for a pod that fits
// nowhere; false when there is none. The cluster is as before afterwards.
func Preempt(pod *corev1.Pod, c *Cluster, ask *storage.Ask, budgets []Budget) (Preemption, bool) {
	r := newRequest(pod)
	r.ask = ask
	var best *choice
	found, start := 0, 0
	if len(c.nodes) > 0 {
		start = offset(pod, len(c.nodes))
	}
	for i := 0; i < len(c.nodes) && found < candidates; i++ {
		n := c.nodes[(start+i)%len(c.nodes)]
		way, ok := clearing(r, n, c, budgets)
		if !ok {
			continue
		}
		found++
		if best == nil || way.better(best) {
			best = way
		}
	}
	if best == nil {
		return Preemption{}, false
	}
	p := Preemption{Node: best.node, Violations: best.violations}
	for _, v := range best.victims {
		p.Victims = append(p.Victims, v.pod)
	}
	return p, true
}

// choice is a node with who would have to go.
type choice struct {
	node       string
	victims    []*placed // the most important first
	violations int
}

// clearing works out who has to go from one node: everybody of lower priority does
// in thought, and as many as there is room for come back, those first whose going
// would violate a budget, then the more important ones.
func clearing(r *request, n *node, c *Cluster, budgets []Budget) (*choice, bool) {
	var weak []*placed
	for _, p := range n.pods {
		if Priority(p.pod) < r.priority && p.pod.DeletionTimestamp == nil {
			weak = append(weak, p)
		}
	}
	if len(weak) == 0 {
		return nil, false
	}
	slices.SortFunc(weak, important)
	for _, p := range weak {
		c.lift(p)
	}
	enough := fits(r, n, look(c, r), nil)
	w := &choice{node: n.name}
	spared, others := protected(weak, budgets)
	for i, p := range append(spared, others...) {
		c.settle(p)
		if !enough || fits(r, n, look(c, r), nil) {
			continue // it may stay, or nobody's going helps
		}
		c.lift(p)
		w.victims = append(w.victims, p)
		if i < len(spared) {
			w.violations++
		}
	}
	for _, p := range w.victims {
		c.settle(p)
	}
	slices.SortFunc(w.victims, important)
	return w, enough && len(w.victims) > 0
}

// protected divides pods into those whose going, after those before them, would
// violate a budget, and the others.
func protected(pods []*placed, budgets []Budget) (spared, others []*placed) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Allowed
	}
	for _, p := range pods {
		violates := false
		for i, b := range budgets {
			if b.Namespace != p.pod.Namespace || len(p.pod.Labels) == 0 || !b.Selector.Matches(labels.Set(p.pod.Labels)) || b.Counted(p.pod.Name) {
				continue
			}
			if left[i]--; left[i] < 0 {
				violates = true
			}
		}
		if violates {
			spared = append(spared, p)
		} else {
			others = append(others, p)
		}
	}
	return spared, others
}

// important orders pods: the higher priority first, then the older.
func important(a, b *placed) int {
	return cmp.Or(cmp.Compare(Priority(b.pod), Priority(a.pod)), since(a.pod).Compare(since(b.pod)), cmp.Compare(a.pod.UID, b.pod.UID))
}

func since(p *corev1.Pod) time.Time {
	if t := p.Status.StartTime; t != nil {
		return t.Time
	}
	return p.CreationTimestamp.Time
}

// better tells whether less is lost by w than by o.
func (w *choice) better(o *choice) bool {
	return cmp.Or(
		cmp.Compare(w.violations, o.violations),
		cmp.Compare(Priority(w.victims[0].pod), Priority(o.victims[0].pod)),
		cmp.Compare(w.sum(), o.sum()),
		cmp.Compare(len(w.victims), len(o.victims)),
		since(o.victims[0].pod).Compare(since(w.victims[0].pod)), // the younger goes
		cmp.Compare(w.node, o.node),
	) < 0
}

// sum adds priorities so that more pods are always more.
func (w *choice) sum() int64 {
	var n int64
	for _, v := range w.victims {
		n += int64(Priority(v.pod)) + math.MaxInt32 + 1
	}
	return n
}

// lift takes a pod off its node in thought; settle puts it back.
func (c *Cluster) lift(p *placed) {
	delete(c.pods, p.pod.UID)
	delete(c.anti, p.pod.UID)
	delete(p.node.pods, p.pod.UID)
	p.node.add(p.r, -1)
}

func (c *Cluster) settle(p *placed) {
	c.pods[p.pod.UID] = p
	p.node.pods[p.pod.UID] = p
	if len(p.r.antiAffinity) > 0 {
		c.anti[p.pod.UID] = p
	}
	p.node.add(p.r, 1)
}
