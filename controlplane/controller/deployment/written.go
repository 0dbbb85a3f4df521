package deployment

import (
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A write that the mirror has not shown for so long never will be: the set was
// deleted while the watch was cut.
const forgetAfter = 30 * time.Second

// written holds the sets as this controller last wrote them, until the mirror
// shows them: a decision must never be taken on fewer replicas given away than
// were.
type written struct {
	mu   sync.Mutex
	sets map[types.UID]map[types.UID]wrote // deployment, set
}

type wrote struct {
	rs *appsv1.ReplicaSet
	at time.Time
}

func newWritten() *written { return &written{sets: map[types.UID]map[types.UID]wrote{}} }

// wrote notes a write, unless the mirror was faster.
func (w *written) wrote(d types.UID, rs *appsv1.ReplicaSet, mirrored func(namespace, name string) (*appsv1.ReplicaSet, bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m, ok := mirrored(rs.Namespace, rs.Name); ok && m.UID == rs.UID && m.Generation >= rs.Generation {
		return
	}
	if w.sets[d] == nil {
		w.sets[d] = map[types.UID]wrote{}
	}
	w.sets[d][rs.UID] = wrote{rs, time.Now()}
}

// seen takes in what the mirror shows.
func (w *written) seen(rs *appsv1.ReplicaSet, gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d, sets := range w.sets {
		if o, ok := sets[rs.UID]; ok && (gone || rs.Generation >= o.rs.Generation) {
			delete(sets, rs.UID)
			if len(sets) == 0 {
				delete(w.sets, d)
			}
			return
		}
	}
}

// open are the writes that the mirror does not show yet. To be asked before
// the mirror is.
func (w *written) open(d types.UID, now time.Time) []*appsv1.ReplicaSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.sets[d], func(_ types.UID, o wrote) bool { return now.Sub(o.at) > forgetAfter })
	var out []*appsv1.ReplicaSet
	for _, o := range w.sets[d] {
		out = append(out, o.rs)
	}
	return out
}

func (w *written) forget(d types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sets, d)
}

// merge puts newer states in the place of older ones.
func merge(mirrored, newer []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	out := slices.Clone(mirrored)
	for _, n := range newer {
		i := slices.IndexFunc(out, func(o *appsv1.ReplicaSet) bool { return o.UID == n.UID })
		switch {
		case i < 0:
			out = append(out, n)
		case out[i].Generation < n.Generation:
			out[i] = n
		}
	}
	return out
}
