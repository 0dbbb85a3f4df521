package deployment

import (
	"cmp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// scaled reports whether the deployment's replicas changed since its sets were
// sized: then sizes follow before the rollout goes on.
func (s *state) scaled() bool {
	want := strconv.Itoa(replicas(s.d.Spec.Replicas))
	for _, m := range s.all {
		if had, ok := m.rs.Annotations[desiredAnnotation]; m.spec() > 0 && ok && had != want {
			return true
		}
	}
	return false
}

// resize brings the sets to the deployment's replicas without moving the
// rollout: one active set takes all, several share in proportion.
func (s *state) resize(p *plan) {
	want := replicas(s.d.Spec.Replicas)
	var active []*member
	for _, m := range s.all {
		if m.spec() > 0 {
			active = append(active, m)
		}
	}
	switch {
	case len(active) == 0 && s.cur != nil:
		s.scale(p, s.cur, want, "replicas changed")
		return
	case len(active) == 0 && len(s.old) > 0:
		s.scale(p, s.newest(s.old), want, "replicas changed")
		return
	case len(active) == 0:
		return
	case len(active) == 1:
		s.scale(p, active[0], want, "replicas changed")
		return
	case !s.scaled() || s.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return
	}
	if s.cur != nil && s.cur.spec() == want && s.cur.available >= want { // saturated
		for _, m := range s.old {
			s.scale(p, m, 0, "the new set has all")
		}
		return
	}
	for m, n := range s.shares(active, want) {
		s.scale(p, m, n, "replicas changed during a rollout")
	}
}

// shares spreads what is to be added or taken over the active sets in
// proportion to their sizes; what rounding leaves goes to the largest. What is
// to be taken comes first from replicas that are not available anyway.
func (s *state) shares(active []*member, want int) map[*member]int {
	surge, _ := limits(s.d)
	allowed := 0
	if want > 0 {
		allowed = want + surge
	}
	out, total := map[*member]int{}, 0
	for _, m := range active {
		out[m] = m.spec()
		total += m.spec()
	}
	diff := allowed - total
	for _, m := range s.oldFirst(active) {
		n := min(m.spec()-m.sure(), -diff)
		if n > 0 {
			out[m] -= n
			diff += n
			total -= n
		}
	}
	order := slices.Clone(active)
	slices.SortStableFunc(order, func(a, b *member) int {
		c := cmp.Compare(out[b], out[a])
		if c == 0 && diff > 0 { // of equals the newer grows
			return b.rs.CreationTimestamp.Compare(a.rs.CreationTimestamp.Time)
		}
		return c
	})
	given := 0
	for _, m := range order {
		if total > 0 {
			part := diff * out[m] / total
			out[m] += part
			given += part
		}
	}
	for i := 0; given != diff; i = (i + 1) % len(order) {
		m := order[i]
		switch {
		case diff > given:
			out[m] += diff - given
			given = diff
		case out[m] > 0:
			n := min(out[m], given-diff)
			out[m] -= n
			given -= n
		}
	}
	return out
}

// oldFirst has the current set last.
func (s *state) oldFirst(ms []*member) []*member {
	out := slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == s.cur })
	if len(out) < len(ms) {
		out = append(out, s.cur)
	}
	return out
}

func (s *state) newest(ms []*member) *member { return ms[len(ms)-1] }
