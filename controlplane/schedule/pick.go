package schedule

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/controlplane/storage"
	corev1 "k8s.io/api/core/v1"
)

const (
	// all nodes are looked at in clusters up to this size
	small = 64
	// in larger ones a pod goes to the best of so many that fit, found from a
	// place in the list that follows from the pod: the cost stays flat
	sample = 16
)

// Explanation says how a decision came about.
type Explanation struct {
	Nodes    int // known
	Looked   int // filtered; fewer than Nodes when enough of them fit
	Feasible int // scored
	Score    int64
	Reasons  map[string]int // when nothing fits: how many nodes were ruled out by what
}

// Pick answers with the name of the best node for a pod, or "" and the reasons.
func Pick(pod *corev1.Pod, c *Cluster) (string, Explanation) { return PickWith(pod, c, nil) }

// PickWith is Pick for a pod that has claims, which ask something of its node too.
func PickWith(pod *corev1.Pod, c *Cluster, ask *storage.Ask) (string, Explanation) {
	e := Explanation{Nodes: len(c.nodes)}
	if e.Nodes == 0 {
		return "", e
	}
	r := newRequest(pod)
	r.ask = ask
	nb := look(c, r)
	want := sample
	if e.Nodes <= small {
		want = e.Nodes
	}
	found := make([]*node, 0, want)
	start := offset(pod, e.Nodes)
	for i := 0; i < e.Nodes && len(found) < want; i++ {
		n := c.nodes[(start+i)%e.Nodes]
		e.Looked++
		if fits(r, n, nb, nil) {
			found = append(found, n)
		}
	}
	e.Feasible = len(found)
	if e.Feasible == 0 {
		t := tally{}
		for _, n := range c.nodes {
			fits(r, n, nb, t)
		}
		e.Reasons = t
		return "", e
	}
	n, score := best(r, found, nb)
	e.Score = score
	return n.name, e
}

// Fits says why a pod may not run on one node; nil when it may. An unknown
// node has one reason.
func Fits(pod *corev1.Pod, c *Cluster, name string) []string {
	n := c.byName[name]
	if n == nil || n.node == nil {
		return []string{"node(s) didn't exist"}
	}
	r := newRequest(pod)
	t := tally{}
	fits(r, n, look(c, r), t)
	var out []string
	for why := range t {
		out = append(out, why)
	}
	slices.Sort(out)
	return out
}

// offset is where the search for a pod begins: pods of one owner begin at
// different places, the same pod always at the same.
func offset(pod *corev1.Pod, n int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod.UID))
	_, _ = h.Write([]byte(pod.Namespace))
	_, _ = h.Write([]byte(pod.Name))
	return int(h.Sum32() % uint32(n))
}

// String is Kubernetes' message, for example "0/3 nodes are available: 2
// Insufficient memory, 1 node(s) had untolerated taint {a: b}."
func (e Explanation) String() string {
	if e.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if e.Feasible > 0 {
		return fmt.Sprintf("%d/%d nodes looked at, %d fit, best score %d", e.Looked, e.Nodes, e.Feasible, e.Score)
	}
	type count struct {
		why string
		n   int
	}
	var cs []count
	for why, n := range e.Reasons {
		cs = append(cs, count{why, n})
	}
	slices.SortFunc(cs, func(a, b count) int { return cmp.Or(b.n-a.n, strings.Compare(a.why, b.why)) })
	parts := make([]string, len(cs))
	for i, c := range cs {
		parts[i] = fmt.Sprintf("%d %s", c.n, c.why)
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", e.Nodes, strings.Join(parts, ", "))
}

// Nowhere is the explanation for a pod that no node can have, for one reason.
func Nowhere(c *Cluster, why string) Explanation {
	return Explanation{Nodes: len(c.nodes), Reasons: map[string]int{why: len(c.nodes)}}
}

// tally counts reasons; a nil one only says no.
type tally map[string]int

func (t tally) no(why string) bool {
	if t != nil {
		t[why]++
	}
	return false
}
