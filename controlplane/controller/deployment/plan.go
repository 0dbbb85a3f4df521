package deployment

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// member is one of a deployment's ReplicaSets with what is known of its pods.
type member struct {
	rs        *appsv1.ReplicaSet
	all       int // pods that exist and have not ended, those being deleted included
	pods      int // that count as replicas
	ready     int
	available int
	current   *bool // whether it is the set of the deployment's template; nil: not known yet
}

// is reports whether the set is the one of d's template.
func (m *member) is(d *appsv1.Deployment) bool {
	if m.current == nil {
		m.current = new(sameTemplate(&m.rs.Spec.Template, &d.Spec.Template))
	}
	return *m.current
}

// spec is the number of replicas the set is asked for.
func (m *member) spec() int { return replicas(m.rs.Spec.Replicas) }

// sure is how many replicas are available and will still be when the set has
// as few as it is asked for: sets end those first that are not.
func (m *member) sure() int { return min(m.spec(), m.available) }

// state is a deployment and its sets.
type state struct {
	d   *appsv1.Deployment
	all []*member // by age, oldest first
	cur *member   // the set of the deployment's template; nil when there is none
	old []*member // the others
}

// plan is what a round does.
type plan struct {
	create *appsv1.ReplicaSet
	update []*appsv1.ReplicaSet // fresh copies
	delete []*appsv1.ReplicaSet
	status appsv1.DeploymentStatus
	again  time.Duration // look again after it; 0 is no need
	why    string        // for the log
}

func newState(d *appsv1.Deployment, sets []*member) state {
	s := state{d: d, all: slices.Clone(sets)}
	slices.SortFunc(s.all, func(a, b *member) int {
		if c := a.rs.CreationTimestamp.Compare(b.rs.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.rs.Name, b.rs.Name)
	})
	for _, m := range s.all {
		if s.cur == nil && m.is(d) {
			s.cur = m
			continue
		}
		s.old = append(s.old, m)
	}
	return s
}

// decide compares a deployment with its sets and takes the next step.
func decide(d *appsv1.Deployment, sets []*member, now time.Time) (plan, error) {
	s := newState(d, sets)
	var p plan
	if d.DeletionTimestamp == nil {
		if err := s.step(&p); err != nil {
			return p, err
		}
	}
	p.status, p.again = status(s, p, now)
	return p, nil
}

func (s *state) step(p *plan) error {
	switch {
	case s.d.Spec.Paused:
		s.resize(p)
		return nil
	case s.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		if err := s.recreate(p); err != nil {
			return err
		}
	case s.scaled():
		s.resize(p)
	default:
		if err := s.roll(p); err != nil {
			return err
		}
	}
	if s.cur != nil {
		s.refresh(p)
		if s.done() {
			p.delete = surplus(s.d, s.old)
		}
	}
	return nil
}

// refresh adds what else the current set needs to the update that is planned.
func (s *state) refresh(p *plan) {
	rs := s.cur.rs
	i := slices.IndexFunc(p.update, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
	next := rs
	if i >= 0 {
		next = p.update[i]
	} else {
		next = next.DeepCopy()
	}
	changed := annotate(s.d, next, s.old)
	if next.Spec.MinReadySeconds != s.d.Spec.MinReadySeconds {
		next.Spec.MinReadySeconds, changed = s.d.Spec.MinReadySeconds, true
	}
	if changed && i < 0 {
		p.update = append(p.update, next)
	}
}

// roll takes one step of a rolling update: more of the new, or fewer of the old.
func (s *state) roll(p *plan) error {
	want := replicas(s.d.Spec.Replicas)
	if s.cur == nil {
		return s.begin(p, s.room(want, 0))
	}
	switch have := s.cur.spec(); {
	case have > want:
		s.scale(p, s.cur, want, "surplus of the new set")
	case have < want:
		if n := s.room(want, have); n > have {
			s.scale(p, s.cur, n, "more of the new set")
			return nil
		}
		s.shrink(p, want)
	default:
		s.shrink(p, want)
	}
	return nil
}

// room is how many replicas the new set may have now: no more than wanted, and
// all sets together no more than wanted and the surge. A pod that is to end and
// has not begun to counts.
func (s *state) room(want, have int) int {
	surge, _ := limits(s.d)
	total := 0
	for _, m := range s.all {
		total += max(m.spec(), m.pods)
	}
	free := want + surge - total
	if free <= 0 {
		return have
	}
	return have + min(free, want-have)
}

// shrink takes replicas from old sets: first those that are not available
// anyway, then as many as availability allows.
func (s *state) shrink(p *plan, want int) {
	_, unavailable := limits(s.d)
	least := want - unavailable
	total, sure := 0, 0
	for _, m := range s.all {
		total += m.spec()
		sure += m.sure()
	}
	next := map[*member]int{}
	for _, m := range s.old {
		next[m] = m.spec()
	}
	dead := total - least - (s.cur.spec() - s.cur.sure())
	for _, m := range s.old {
		n := min(m.spec()-m.sure(), dead)
		if n > 0 {
			next[m] -= n
			dead -= n
		}
	}
	spare := sure - least
	for _, m := range s.old {
		n := min(m.sure(), spare, next[m])
		if n > 0 {
			next[m] -= n
			spare -= n
		}
	}
	for _, m := range s.old {
		if next[m] != m.spec() {
			s.scale(p, m, next[m], "fewer of an old set")
		}
	}
}

// recreate ends all old pods before the first new one.
func (s *state) recreate(p *plan) error {
	gone := true
	for _, m := range s.old {
		if m.spec() > 0 {
			s.scale(p, m, 0, "old set ends before the new one")
		}
		gone = gone && m.spec() == 0 && m.all == 0
	}
	want := replicas(s.d.Spec.Replicas)
	switch {
	case !gone:
	case s.cur == nil:
		return s.begin(p, want)
	case s.cur.spec() != want:
		s.scale(p, s.cur, want, "the new set")
	}
	return nil
}

func (s *state) begin(p *plan, n int) error {
	rs, err := newSet(s.d)
	if err != nil {
		return err
	}
	annotate(s.d, rs, s.old)
	s.size(rs, n)
	p.create, p.why = rs, "a new set for a new template"
	return nil
}

func (s *state) scale(p *plan, m *member, n int, why string) {
	if m.spec() == n && m.rs.Annotations[desiredAnnotation] == strconv.Itoa(replicas(s.d.Spec.Replicas)) {
		return
	}
	next := m.rs.DeepCopy()
	s.size(next, n)
	p.update, p.why = append(p.update, next), why
}

// size sets a set's replicas and notes what they were worked out from, so that
// a later change of the deployment's own number is noticed.
func (s *state) size(rs *appsv1.ReplicaSet, n int) {
	want := replicas(s.d.Spec.Replicas)
	surge, _ := limits(s.d)
	count := int32(n)
	rs.Spec.Replicas = &count
	rs.Annotations = with(rs.Annotations, desiredAnnotation, strconv.Itoa(want))
	rs.Annotations = with(rs.Annotations, maxAnnotation, strconv.Itoa(want+surge))
}

// done reports whether the current set is all there is and is available.
func (s *state) done() bool {
	for _, m := range s.old {
		if m.spec() > 0 || m.all > 0 {
			return false
		}
	}
	return s.cur.spec() == replicas(s.d.Spec.Replicas) && s.cur.available >= s.cur.spec()
}

// limits are the deployment's maxSurge and maxUnavailable in pods.
func limits(d *appsv1.Deployment) (surge, unavailable int) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return 0, 0
	}
	want := replicas(d.Spec.Replicas)
	quarter := intstr.FromString("25%")
	a, b := &quarter, &quarter
	if r := d.Spec.Strategy.RollingUpdate; r != nil {
		if r.MaxSurge != nil {
			a = r.MaxSurge
		}
		if r.MaxUnavailable != nil {
			b = r.MaxUnavailable
		}
	}
	surge, _ = intstr.GetScaledValueFromIntOrPercent(a, want, true) // the API refuses what doesn't parse
	unavailable, _ = intstr.GetScaledValueFromIntOrPercent(b, want, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1 // else nothing could ever move
	}
	return surge, min(unavailable, want)
}

func replicas(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
