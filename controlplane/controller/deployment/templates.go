package deployment

import (
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// templates remembers which sets are of their deployment's template. Comparing
// two templates is the dearest part of a reconciliation, every change of a pod
// brings one, and specs change far more seldom. The zero value is empty.
type templates struct {
	mu    sync.Mutex
	known map[types.UID]map[types.UID]compared // by deployment and set
}

// compared is the outcome for two generations of specs.
type compared struct {
	d, rs int64
	same  bool
}

// same compares, or remembers.
func (t *templates) same(rs *appsv1.ReplicaSet, d *appsv1.Deployment) *bool {
	t.mu.Lock()
	was, ok := t.known[d.UID][rs.UID]
	t.mu.Unlock()
	if ok && was.d == d.Generation && was.rs == rs.Generation {
		return &was.same
	}
	now := compared{d.Generation, rs.Generation, sameTemplate(&rs.Spec.Template, &d.Spec.Template)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = map[types.UID]map[types.UID]compared{}
	}
	sets := t.known[d.UID]
	if sets == nil || len(sets) > 100 { // sets that are gone are not told
		sets = map[types.UID]compared{}
		t.known[d.UID] = sets
	}
	sets[rs.UID] = now
	return &now.same
}

func (t *templates) forget(d types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, d)
}
