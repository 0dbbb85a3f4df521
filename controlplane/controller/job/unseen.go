package job

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Of a creation whose pod has not been seen for so long is asked: perhaps it came
// and went while the watch was cut.
const doubtAfter = time.Minute

// unseen holds the creations and deletions of pods that the mirror does not show
// yet. While there are any of a Job, none of its pods is created or deleted for
// the sake of their number.
type unseen struct {
	mu   sync.Mutex
	jobs map[types.UID]*writes
}

type writes struct {
	created map[string]birth
	deleted map[string]types.UID // by name
}

type birth struct {
	at       time.Time
	doubtful bool // it is not known whether it took place
}

func newUnseen() *unseen { return &unseen{jobs: map[types.UID]*writes{}} }

func (u *unseen) of(job types.UID) *writes {
	w := u.jobs[job]
	if w == nil {
		w = &writes{created: map[string]birth{}, deleted: map[string]types.UID{}}
		u.jobs[job] = w
	}
	return w
}

func (u *unseen) create(job types.UID, name string, b birth) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.of(job).created[name] = b
}

func (u *unseen) notCreated(job types.UID, name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.of(job).created, name)
}

func (u *unseen) delete(job types.UID, name string, pod types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.of(job).deleted[name] = pod
}

func (u *unseen) forget(job types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.jobs, job)
}

// look drops what the mirror shows by now, and answers with whether there is
// anything left, and with the names of the creations to ask about.
// shown answers with the UID of the pod of a name, and whether it is going.
func (u *unseen) look(job types.UID, now time.Time, shown func(name string) (uid types.UID, going bool)) (left bool, doubtful []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w := u.jobs[job]
	if w == nil {
		return false, nil
	}
	for name, b := range w.created {
		if uid, _ := shown(name); uid != "" {
			delete(w.created, name)
		} else if b.doubtful || now.Sub(b.at) > doubtAfter {
			doubtful = append(doubtful, name)
		}
	}
	for name, pod := range w.deleted {
		if uid, going := shown(name); uid != pod || going {
			delete(w.deleted, name)
		}
	}
	left = len(w.created)+len(w.deleted) > 0
	if !left {
		delete(u.jobs, job)
	}
	return left, doubtful
}
