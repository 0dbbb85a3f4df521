package schedule_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/podsnap/podsnap/controlplane/schedule"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// Whatever comes and goes, no node is ever given more than it has, a pod that
// is refused fits nowhere, and the order in which nodes appear changes nothing.
func TestNeverOverbooked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 80).Draw(t, "nodes")
		cpu := map[string]int64{}
		order := make([]*corev1.Node, n)
		for i := range order {
			name := fmt.Sprintf("n%02d", i)
			c := rapid.Int64Range(1, 8).Draw(t, "cpu")
			cpu[name] = c * 1000
			order[i] = node(name, size(fmt.Sprint(c), "64Gi", rapid.Int64Range(1, 4).Draw(t, "pods")))
		}
		a, b := schedule.NewCluster(), schedule.NewCluster()
		for _, o := range order {
			a.SetNode(o)
		}
		for _, o := range slices.Backward(order) {
			b.SetNode(o)
		}
		used, count := map[string]int64{}, map[string]int64{}
		var there []*corev1.Pod
		want := map[string]int64{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(there) > 0 && rapid.IntRange(0, 3).Draw(t, "leave") == 0 {
				k := rapid.IntRange(0, len(there)-1).Draw(t, "who")
				p := there[k]
				there = slices.Delete(there, k, k+1)
				at, _ := a.Where(p.UID)
				used[at] -= want[p.Name]
				count[at]--
				a.Remove(p.UID)
				b.Remove(p.UID)
				continue
			}
			m := rapid.Int64Range(0, 5000).Draw(t, "milli")
			p := pod(fmt.Sprintf("p%d", i), requests(fmt.Sprintf("%dm", m), "1Mi"), function("f"))
			at, e := schedule.Pick(p, a)
			if again, _ := schedule.Pick(p, b); again != at {
				t.Fatalf("picked %q, and %q when nodes appeared in another order", at, again)
			}
			if at == "" {
				for _, o := range order {
					if len(schedule.Fits(p, a, o.Name)) == 0 {
						t.Fatalf("%s fits %s, yet: %s", p.Name, o.Name, e)
					}
				}
				continue
			}
			a.Assign(p, at)
			b.Assign(p, at)
			there = append(there, p)
			want[p.Name] = m
			used[at] += m
			count[at]++
			pods := order[slices.IndexFunc(order, func(o *corev1.Node) bool { return o.Name == at })].Status.Allocatable.Pods().Value()
			if used[at] > cpu[at] || count[at] > pods {
				t.Fatalf("%s is overbooked: %d of %d m cpu, %d of %d pods", at, used[at], cpu[at], count[at], pods)
			}
		}
	})
}
