package stateful

import (
	"cmp"
	"slices"
	"time"

	"github.com/podsnap/podsnap/controlplane/podstate"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// birth is a pod that is to be made.
type birth struct {
	ordinal  int
	revision string // of the template
}

// plan is what a set needs now.
type plan struct {
	create []birth
	delete []*corev1.Pod
	status appsv1.StatefulSetStatus
	again  time.Duration // when to look again though nothing changes; 0 is never
}

// member is a pod of the set.
type member struct {
	pod     *corev1.Pod
	ordinal int
	healthy bool // serves, and has for long enough
}

// crew is what a set has, compared with what it is to have.
type crew struct {
	s               *appsv1.StatefulSet
	current, update string
	at              map[int]*member // by ordinal, of those that the set is to have
	spare           []*member       // the others, the highest ordinal first
	plan            plan
}

// decide compares what is there with what should be. current and update are the names
// of the revisions between which the set is; they are the same when it is not being
// updated. There is never a second pod of a name: one that is there, in whatever
// state, has to go before there is another one.
func decide(s *appsv1.StatefulSet, current, update string, pods []*corev1.Pod, now time.Time) plan {
	c := &crew{s: s, current: current, update: update, at: map[int]*member{}}
	c.muster(pods, now)
	if s.DeletionTimestamp != nil {
		return c.plan // what it owns goes after it
	}
	ordered := s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	if c.fill(ordered) || c.shrink(ordered) {
		return c.plan
	}
	c.roll()
	return c.plan
}

// muster sorts the pods and counts them.
func (c *crew) muster(pods []*corev1.Pod, now time.Time) {
	st := &c.plan.status
	*st = appsv1.StatefulSetStatus{
		ObservedGeneration: c.s.Generation, CurrentRevision: c.current, UpdateRevision: c.update,
		CollisionCount: c.s.Status.CollisionCount, Conditions: c.s.Status.Conditions,
	}
	least := time.Duration(c.s.Spec.MinReadySeconds) * time.Second
	for _, p := range pods {
		ordinal, ok := ordinalOf(c.s, p.Name)
		if !ok {
			continue
		}
		available, wait := podstate.Available(p, least, now)
		if wait > 0 && (c.plan.again == 0 || wait < c.plan.again) {
			c.plan.again = wait
		}
		m := &member{p, ordinal, available && podstate.Active(p)}
		if inRange(c.s, ordinal) {
			c.at[ordinal] = m
		} else {
			c.spare = append(c.spare, m)
		}
		c.count(p, available)
	}
	slices.SortFunc(c.spare, func(a, b *member) int { return cmp.Compare(b.ordinal, a.ordinal) })
	// An update is over when every pod is of the new revision, and ready.
	if st.UpdatedReplicas == st.Replicas && st.ReadyReplicas == st.Replicas && int(st.Replicas) == count(c.s) {
		st.CurrentRevision, st.CurrentReplicas = c.update, st.UpdatedReplicas
	}
}

func (c *crew) count(p *corev1.Pod, available bool) {
	st := &c.plan.status
	st.Replicas++
	if podstate.Ready(p) && !podstate.Ended(p) {
		st.ReadyReplicas++
		if available {
			st.AvailableReplicas++
		}
	}
	if p.DeletionTimestamp != nil {
		return
	}
	if revisionOf(p) == c.current {
		st.CurrentReplicas++
	}
	if revisionOf(p) == c.update {
		st.UpdatedReplicas++
	}
}

func revisionOf(p *corev1.Pod) string { return p.Labels[appsv1.StatefulSetRevisionLabel] }

// fill has missing pods made and ended ones replaced. It reports whether nothing else
// may happen before that is done: of an ordered set one pod after the other comes, each
// when those before it serve.
func (c *crew) fill(ordered bool) (wait bool) {
	for ordinal := start(c.s); ordinal < start(c.s)+count(c.s); ordinal++ {
		m := c.at[ordinal]
		switch {
		case m == nil:
			c.plan.create = append(c.plan.create, birth{ordinal, c.revisionFor(ordinal)})
		case m.pod.DeletionTimestamp == nil && podstate.Ended(m.pod):
			c.plan.delete = append(c.plan.delete, m.pod)
		case m.healthy:
			continue
		}
		if ordered {
			return true
		}
	}
	return false
}

// shrink has pods go that the set has no place for; of an ordered one the highest, when
// the one above it is gone. It reports whether nothing else may happen before.
func (c *crew) shrink(ordered bool) (wait bool) {
	for _, m := range c.spare {
		if m.pod.DeletionTimestamp == nil {
			c.plan.delete = append(c.plan.delete, m.pod)
		}
		if ordered {
			return true
		}
	}
	return false
}

// roll replaces pods of former revisions, from the highest ordinal down to the
// partition's, as many at a time as may be missing.
func (c *crew) roll() {
	if c.s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return
	}
	room := most(c.s)
	for ordinal := start(c.s) + count(c.s) - 1; ordinal >= c.frozen() && room > 0; ordinal-- {
		m := c.at[ordinal]
		switch {
		case m == nil:
			room-- // it is being made
		case m.pod.DeletionTimestamp == nil && !podstate.Ended(m.pod) && revisionOf(m.pod) != c.update:
			c.plan.delete = append(c.plan.delete, m.pod)
			room--
		case !m.healthy:
			room--
		}
	}
}

// frozen is the first ordinal that an update is for.
func (c *crew) frozen() int {
	r := c.s.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.Partition == nil {
		return start(c.s)
	}
	return start(c.s) + int(*r.Partition)
}

// revisionFor is of which revision a missing pod is made. Below the partition it is the
// former one. Above, an update goes from the highest ordinal down: a pod that lies below
// one that has not been updated comes back as it was.
func (c *crew) revisionFor(ordinal int) string {
	if c.s.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return c.update
	}
	if ordinal < c.frozen() {
		return c.current
	}
	for _, m := range c.at {
		if m.ordinal > ordinal && m.pod.DeletionTimestamp == nil && revisionOf(m.pod) != c.update {
			return c.current
		}
	}
	return c.update
}

// most is how many pods an update may have missing at a time.
func most(s *appsv1.StatefulSet) int {
	r := s.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, count(s), false)
	if err != nil {
		return 1 // the API refuses those
	}
	return max(n, 1)
}
