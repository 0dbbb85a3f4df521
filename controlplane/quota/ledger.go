package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
)

// Patience is how long an object that was let through and has not been seen is
// believed to come.
const Patience = 10 * time.Second

// Ledger is what the quotas of one namespace bound and what is used of them,
// objects included that were let through a moment ago. A change costs the same
// however many objects there are. It is not safe for concurrent use.
type Ledger struct {
	accounts map[string]*account // by the quota's name
	items    map[types.UID]*item
}

type account struct {
	quota *corev1.ResourceQuota
	used  corev1.ResourceList
}

type item struct {
	obj   api.Object
	usage corev1.ResourceList
	asked time.Time // when it was let through; zero: it is there
}

// NewLedger is one without quotas.
func NewLedger() *Ledger {
	return &Ledger{accounts: map[string]*account{}, items: map[types.UID]*item{}}
}

// SetQuota takes in a quota, or its new state.
func (l *Ledger) SetQuota(q *corev1.ResourceQuota) {
	a := l.accounts[q.Name]
	if a != nil && equality.Semantic.DeepEqual(a.quota.Spec, q.Spec) {
		a.quota = q
		return
	}
	a = &account{quota: q, used: corev1.ResourceList{}}
	l.accounts[q.Name] = a
	for _, it := range l.items {
		a.count(it, 1)
	}
}

// DropQuota forgets one.
func (l *Ledger) DropQuota(name string) { delete(l.accounts, name) }

// Empty tells that there is no quota.
func (l *Ledger) Empty() bool { return len(l.accounts) == 0 }

// Quotas are the names of them.
func (l *Ledger) Quotas() []string { return slices.Collect(maps.Keys(l.accounts)) }

// Kinds are those whose objects the quotas count.
func (l *Ledger) Kinds() map[*api.Resource]bool {
	out := map[*api.Resource]bool{}
	for _, a := range l.accounts {
		for name := range a.quota.Spec.Hard {
			if r := KindOf(name); r != nil {
				out[r] = true
			}
		}
	}
	return out
}

// Seen takes in an object as it is stored.
func (l *Ledger) Seen(obj api.Object) {
	if it := l.items[obj.GetUID()]; it != nil && it.asked.IsZero() && same(it.obj, obj) {
		return
	}
	l.put(&item{obj: obj, usage: Usage(obj)})
}

// same tells of pods, whose status changes often, that they count as before.
func same(a, b api.Object) bool {
	p, ok := a.(*corev1.Pod)
	q, both := b.(*corev1.Pod)
	return ok && both && p.Generation == q.Generation && podstate.Ended(p) == podstate.Ended(q)
}

// Gone forgets an object.
func (l *Ledger) Gone(uid types.UID) {
	if it := l.items[uid]; it != nil {
		l.count(it, -1)
		delete(l.items, uid)
	}
}

func (l *Ledger) put(it *item) {
	l.Gone(it.obj.GetUID())
	l.items[it.obj.GetUID()] = it
	l.count(it, 1)
}

func (l *Ledger) count(it *item, sign int) {
	for _, a := range l.accounts {
		a.count(it, sign)
	}
}

func (a *account) count(it *item, sign int) {
	if !Matches(a.quota, it.obj) {
		return
	}
	for name, q := range it.usage {
		if _, bounded := a.quota.Spec.Hard[name]; !bounded {
			continue
		}
		sum := a.used[name]
		if sign > 0 {
			sum.Add(q)
		} else {
			sum.Sub(q)
		}
		a.used[name] = sum
	}
}

// Ask says whether an object may be made, or become what it is to be: nil when it
// may, and it is counted from then on. undo takes that back, for when nothing came
// of it. old is nil for a creation.
func (l *Ledger) Ask(old, obj api.Object, now time.Time) (undo func(), err error) {
	next := &item{obj: obj, usage: Usage(obj)}
	if old == nil {
		next.asked = now
	}
	before := l.items[obj.GetUID()]
	if before != nil && old == nil { // an earlier try of the same creation
		l.Gone(obj.GetUID())
		before = nil
	}
	err = l.check(old, next)
	if err != nil && l.Expire(now) {
		err = l.check(old, next)
	}
	if err != nil {
		return nil, err
	}
	l.put(next)
	return func() {
		if l.items[obj.GetUID()] != next {
			return // it has been seen, so it took place
		}
		l.Gone(obj.GetUID())
		if before != nil {
			l.put(before)
		}
	}, nil
}

// Check is Ask for who asks only.
func (l *Ledger) Check(old, obj api.Object) error {
	return l.check(old, &item{obj: obj, usage: Usage(obj)})
}

// Waits tells whether something was let through that has not been seen.
func (l *Ledger) Waits() bool {
	for _, it := range l.items {
		if !it.asked.IsZero() {
			return true
		}
	}
	return false
}

// Expire forgets what was let through and never came, and reports whether there
// was any.
func (l *Ledger) Expire(now time.Time) bool {
	some := false
	for uid, it := range l.items {
		if !it.asked.IsZero() && now.Sub(it.asked) > Patience {
			l.Gone(uid)
			some = true
		}
	}
	return some
}

func (l *Ledger) check(old api.Object, next *item) error {
	for _, name := range slices.Sorted(maps.Keys(l.accounts)) {
		if err := l.accounts[name].check(old, next); err != nil {
			return err
		}
	}
	return nil
}

func (a *account) check(old api.Object, next *item) error {
	if !Matches(a.quota, next.obj) {
		return nil
	}
	if pod, ok := next.obj.(*corev1.Pod); ok && old == nil {
		if err := missing(a.quota, pod); err != nil {
			return fmt.Errorf("failed quota: %s: %w", a.quota.Name, err)
		}
	}
	var before corev1.ResourceList
	if old != nil && Matches(a.quota, old) {
		before = Usage(old)
	}
	requested, used, limited := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for name, hard := range a.quota.Spec.Hard {
		more := next.usage[name].DeepCopy()
		more.Sub(before[name])
		if more.Sign() <= 0 {
			continue
		}
		total := a.used[name].DeepCopy()
		total.Add(more)
		if total.Cmp(hard) > 0 {
			requested[name], used[name], limited[name] = more, zeroed(a.used[name]), hard
		}
	}
	if len(requested) == 0 {
		return nil
	}
	return fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", a.quota.Name, show(requested), show(used), show(limited))
}

// zeroed makes an amount that was never counted a number.
func zeroed(q apiresource.Quantity) apiresource.Quantity {
	if q.IsZero() && q.Format == "" {
		q.Format = apiresource.DecimalSI
	}
	return q
}

func show(l corev1.ResourceList) string {
	parts := make([]string, 0, len(l))
	for _, name := range slices.Sorted(maps.Keys(l)) {
		q := l[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}

// missing says what of the bounded resources some containers say nothing about.
func missing(q *corev1.ResourceQuota, pod *corev1.Pod) error {
	names := map[corev1.ResourceName][]string{}
	look := func(cs []corev1.Container) {
		for i := range cs {
			said := corev1.ResourceList{}
			addCompute(said, cs[i].Resources.Requests, cs[i].Resources.Limits)
			for name := range q.Spec.Hard {
				if _, ok := said[name]; !ok && mustBeSaid(name) {
					names[name] = append(names[name], cs[i].Name)
				}
			}
		}
	}
	look(pod.Spec.Containers)
	look(pod.Spec.InitContainers)
	if len(names) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		slices.Sort(names[name])
		parts = append(parts, string(name)+" for: "+strings.Join(names[name], ","))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func mustBeSaid(name corev1.ResourceName) bool {
	return slices.Contains([]corev1.ResourceName{
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
	}, name)
}

// Status is what a quota's is to be; false when there is no such quota.
func (l *Ledger) Status(name string) (s corev1.ResourceQuotaStatus, ok bool) {
	a := l.accounts[name]
	if a == nil {
		return s, false
	}
	s.Hard, s.Used = a.quota.Spec.Hard.DeepCopy(), corev1.ResourceList{}
	for name := range s.Hard {
		if KindOf(name) == nil {
			continue // nobody counts it
		}
		s.Used[name] = zeroed(a.used[name].DeepCopy())
	}
	return s, true
}
