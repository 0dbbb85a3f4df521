// Package schedule decides on which node a pod runs: filters, scores, and an
// explanation when nothing fits. It is pure: it reads no clock and does no I/O,
// and the same cluster and pod give the same node.
package schedule

import (
	"slices"
	"strings"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Cluster is a model of the nodes and of what is assigned to them, kept up to
// date change by change: every method but Pick's scan costs the same for ten
// nodes as for ten thousand. It is not safe for concurrent use.
type Cluster struct {
	nodes      []*node // known ones, by name
	byName     map[string]*node
	pods       map[types.UID]*placed
	anti       map[types.UID]*placed // those with required anti-affinity: they bind others
	namespaces map[string]labels.Set
	left       uint64              // replicas that were removed
	priorities map[int32]int       // of assigned pods: how many there are
	nominees   map[types.UID]*node // pods that others make way for, and where
}

// node is what the filters and scores need of a Node, worked out beforehand.
type node struct {
	name  string
	node  *corev1.Node // nil while pods are known and the node is not
	ready bool
	hard  []corev1.Taint // NoSchedule and NoExecute
	soft  []corev1.Taint // PreferNoSchedule
	image map[string]bool
	alloc resources
	used  resources
	wish  resources // as used, with a least size for pods that request nothing
	ports map[port]int
	group map[group]int
	warm  map[group]uint64 // functions that had replicas here, and when: larger is later
	pods  map[types.UID]*placed

	nominated map[types.UID]*request // room is kept for them
}

// placed is a pod on a node.
type placed struct {
	pod  *corev1.Pod
	r    *request
	node *node
}

// NewCluster is an empty one.
func NewCluster() *Cluster {
	return &Cluster{
		byName: map[string]*node{}, pods: map[types.UID]*placed{}, anti: map[types.UID]*placed{},
		namespaces: map[string]labels.Set{}, priorities: map[int32]int{}, nominees: map[types.UID]*node{},
	}
}

// Len is the number of nodes.
func (c *Cluster) Len() int { return len(c.nodes) }

// SetNode adds a node or takes in its new state.
func (c *Cluster) SetNode(n *corev1.Node) {
	e := c.node(n.Name)
	if e.node == nil {
		i, _ := slices.BinarySearchFunc(c.nodes, n.Name, func(a *node, name string) int { return strings.Compare(a.name, name) })
		c.nodes = slices.Insert(c.nodes, i, e)
	}
	e.node, e.ready = n, Ready(n)
	e.hard, e.soft = nil, nil
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			e.soft = append(e.soft, t)
		} else {
			e.hard = append(e.hard, t)
		}
	}
	e.image = map[string]bool{}
	for _, i := range n.Status.Images {
		for _, name := range i.Names {
			e.image[name] = true
		}
	}
	e.alloc = resourcesOf(n.Status.Allocatable)
	e.alloc.pods = n.Status.Allocatable.Pods().Value()
}

// RemoveNode forgets a node; its pods are remembered until they are removed.
func (c *Cluster) RemoveNode(name string) {
	e := c.byName[name]
	if e == nil || e.node == nil {
		return
	}
	e.node = nil
	c.nodes = slices.DeleteFunc(c.nodes, func(o *node) bool { return o == e })
	c.drop(e)
}

// SetNamespace takes in a namespace's labels, which namespace selectors of pod
// affinity look at; nil forgets it.
func (c *Cluster) SetNamespace(name string, l map[string]string) {
	if l == nil {
		delete(c.namespaces, name)
		return
	}
	c.namespaces[name] = l
}

// Assign says that pod is on the node called name, wherever it was before. A
// pod that has ended takes no room and is not counted.
func (c *Cluster) Assign(pod *corev1.Pod, name string) {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	p := c.pods[pod.UID]
	if p != nil && p.node.name == name && !ended && same(p.pod, pod) {
		p.pod = pod // only its status is new
		return
	}
	c.Remove(pod.UID)
	if ended {
		return
	}
	n := c.node(name)
	p = &placed{pod: pod, r: newRequest(pod), node: n}
	c.settle(p)
	c.priorities[p.r.priority]++
	c.Withdraw(pod.UID)
}

// Remove says that a pod is no longer anywhere.
func (c *Cluster) Remove(uid types.UID) {
	p := c.pods[uid]
	if p == nil {
		return
	}
	c.lift(p)
	if c.priorities[p.r.priority]--; c.priorities[p.r.priority] == 0 {
		delete(c.priorities, p.r.priority)
	}
	if p.pod.Labels[api.LabelFunction] != "" {
		c.left++
		p.node.remember(p.r.group, c.left)
	}
	c.drop(p.node)
}

// Where is the node that a pod is assigned to.
func (c *Cluster) Where(uid types.UID) (name string, ok bool) {
	p := c.pods[uid]
	if p == nil {
		return "", false
	}
	return p.node.name, true
}

func (c *Cluster) node(name string) *node {
	n := c.byName[name]
	if n == nil {
		n = &node{name: name, ports: map[port]int{}, group: map[group]int{}, warm: map[group]uint64{}, pods: map[types.UID]*placed{}}
		c.byName[name] = n
	}
	return n
}

// mostWarm is how many functions a node is remembered for.
const mostWarm = 256

// remember notes that a function has left a replica's traces on the node: its image
// and a root file system, which the next replica takes over.
func (n *node) remember(g group, when uint64) {
	n.warm[g] = when
	if len(n.warm) <= mostWarm {
		return
	}
	for old, at := range n.warm {
		if at < when {
			g, when = old, at
		}
	}
	delete(n.warm, g)
}

// drop forgets an entry that stands for nothing.
func (c *Cluster) drop(n *node) {
	if n.node == nil && len(n.pods) == 0 && len(n.nominated) == 0 {
		delete(c.byName, n.name)
	}
}

func (n *node) add(r *request, sign int64) {
	n.used.add(r.res, sign)
	n.wish.add(r.wish, sign)
	for _, p := range r.ports {
		if n.ports[p] += int(sign); n.ports[p] == 0 {
			delete(n.ports, p)
		}
	}
	if r.group != (group{}) {
		if n.group[r.group] += int(sign); n.group[r.group] == 0 {
			delete(n.group, r.group)
		}
	}
}

// same reports whether two states of a pod weigh the same: the spec's requests
// can't change, labels can.
func same(a, b *corev1.Pod) bool {
	return a.Generation == b.Generation && labels.Equals(a.Labels, b.Labels)
}

// Ready reports whether the node says that it is ready for pods.
func Ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
