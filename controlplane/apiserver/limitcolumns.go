package apiserver

import (
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podsnap/podsnap/api"
)

// limitColumns are those of the kinds that say how much a namespace may use, and
// which pods come first.
func limitColumns(r *api.Resource, name, since column) []column {
	switch r {
	case api.LimitRanges:
		return []column{name, {
			metav1.TableColumnDefinition{Name: "Created At", Type: "string"},
			func(o api.Object, _ time.Time) any { return o.GetCreationTimestamp().UTC().Format(time.RFC3339) },
		}}
	case api.ResourceQuotas:
		return []column{
			name,
			col("Request", "string", func(q *corev1.ResourceQuota) any { return usedOf(q, false) }),
			col("Limit", "string", func(q *corev1.ResourceQuota) any { return usedOf(q, true) }),
			since,
		}
	}
	return []column{
		name,
		col("Value", "integer", func(p *schedulingv1.PriorityClass) any { return p.Value }),
		col("Global-Default", "boolean", func(p *schedulingv1.PriorityClass) any { return p.GlobalDefault }),
		since,
		col("PreemptionPolicy", "string", func(p *schedulingv1.PriorityClass) any {
			if p.PreemptionPolicy == nil {
				return string(corev1.PreemptLowerPriority)
			}
			return string(*p.PreemptionPolicy)
		}),
	}
}

// usedOf is what is used of a quota's limits, or of all else that it bounds.
func usedOf(q *corev1.ResourceQuota, limits bool) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		if strings.HasPrefix(string(name), "limits") != limits {
			continue
		}
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		out = append(out, string(name)+": "+used.String()+"/"+hard.String())
	}
	return strings.Join(out, ", ")
}
