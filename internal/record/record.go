// Package record writes core/v1 Events about objects: asynchronously, bounded,
// and with repetitions counted in one Event instead of many.
package record

import (
	"context"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config says how events are recorded.
type Config struct {
	Objects   api.Objects
	Component string        // who speaks, for example "scheduler"
	Host      string        // "" is the machine's name
	Limit     int           // distinct events that may wait to be written; 0 is 1024. More are dropped.
	Interval  time.Duration // one event is written at most so often; 0 is 1 s
	Rate      float64       // Normal events a second that are taken on, after a burst of five seconds' worth; 0 is 5. More are dropped
	Log       *slog.Logger  // nil discards
}

// Recorder takes events and writes them in Run. A nil Recorder drops all.
type Recorder struct {
	c    Config
	wake chan struct{}

	mu      sync.Mutex
	pending map[string]*entry // by the Event's namespace and name
	order   []string
	dropped int
	tokens  float64 // Normal events that may be taken on now
	filled  time.Time
}

type entry struct {
	event *corev1.Event
	count int32
}

// New makes a recorder.
func New(c Config) *Recorder {
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	if c.Limit == 0 {
		c.Limit = 1024
	}
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Rate == 0 {
		c.Rate = 5
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Recorder{c: c, wake: make(chan struct{}, 1), pending: map[string]*entry{}}
}

// Event notes that something happened to obj. kind is corev1.EventTypeNormal or
// EventTypeWarning, reason a CamelCase word, message a sentence for people. It
// never blocks. The same event again raises its count.
func (r *Recorder) Event(obj api.Object, kind, reason, message string) {
	if r == nil {
		return
	}
	e := r.event(obj, kind, reason, message, time.Now())
	key := e.Namespace + "/" + e.Name
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pending[key]; p != nil {
		p.count++
		p.event.LastTimestamp = e.LastTimestamp
		return
	}
	if len(r.pending) >= r.c.Limit {
		r.dropped++
		return
	}
	if kind == corev1.EventTypeNormal && !r.spend(time.Now()) {
		return // routine, and there is much of it: each is a write to the store
	}
	r.pending[key] = &entry{event: e, count: 1}
	r.order = append(r.order, key)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// spend takes a token for a Normal event, if there is one. Called with r.mu held.
func (r *Recorder) spend(now time.Time) bool {
	most := 5 * r.c.Rate
	if r.filled.IsZero() {
		r.tokens = most
	} else {
		r.tokens = min(most, r.tokens+r.c.Rate*now.Sub(r.filled).Seconds())
	}
	r.filled = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}

// Eventf is Event with a format.
func (r *Recorder) Eventf(obj api.Object, kind, reason, format string, args ...any) {
	r.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

// Run writes events until ctx is done, and returns nil then. Events that can't
// be written are dropped.
func (r *Recorder) Run(ctx context.Context) error {
	written := map[string]time.Time{} // when a key was written last
	for {
		key, e, wait := r.next(written, time.Now())
		if e == nil {
			var timer <-chan time.Time
			if wait > 0 {
				timer = time.After(wait)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-r.wake:
			case <-timer:
			}
			continue
		}
		if err := r.write(ctx, e); err != nil && ctx.Err() == nil {
			r.c.Log.Debug("event dropped", slog.String("event", key), slog.String("reason", e.event.Reason), slog.Any("error", err))
		}
		if ctx.Err() != nil {
			return nil
		}
		written[key] = time.Now()
	}
}

// next takes the first event that may be written now; without one it says
// after which time there will be one (0: after the next wake).
func (r *Recorder) next(written map[string]time.Time, now time.Time) (string, *entry, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dropped > 0 {
		r.c.Log.Warn("too many events", slog.Int("dropped", r.dropped), slog.Int("limit", r.c.Limit))
		r.dropped = 0
	}
	var wait time.Duration
	for i, key := range r.order {
		if left := r.c.Interval - now.Sub(written[key]); left > 0 && !written[key].IsZero() {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		e := r.pending[key]
		delete(r.pending, key)
		r.order = append(r.order[:i:i], r.order[i+1:]...)
		return key, e, 0
	}
	if len(written) > r.c.Limit {
		for k, t := range written {
			if now.Sub(t) > r.c.Interval {
				delete(written, k)
			}
		}
	}
	return "", nil, wait
}

func (r *Recorder) write(ctx context.Context, e *entry) error {
	ev := e.event
	ev.Count = e.count
	_, err := r.c.Objects.Create(ctx, ev)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err = api.Mutate(ctx, r.c.Objects, api.Events, ev.Namespace, ev.Name, api.UpdateOptions{}, func(old *corev1.Event) (bool, error) {
		old.Count += e.count
		old.LastTimestamp = ev.LastTimestamp
		return true, nil
	})
	return err
}

// event makes the object. Its name follows from what it says, so that the same
// event finds itself again, also after a restart.
func (r *Recorder) event(obj api.Object, kind, reason, message string, now time.Time) *corev1.Event {
	res := api.ResourceOf(obj)
	ns := obj.GetNamespace()
	if ns == "" {
		ns = metav1.NamespaceDefault
	}
	h := fnv.New64a()
	for _, s := range []string{r.c.Component, r.c.Host, string(obj.GetUID()), kind, reason, message} {
		_, _ = h.Write([]byte(s))
		_, _ = h.Write([]byte{0})
	}
	name := obj.GetName()
	if len(name) > 230 { // 253 is the limit of a name
		name = name[:230]
	}
	at := metav1.NewTime(now)
	return &corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name + "." + hex.EncodeToString(h.Sum(nil))},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: res.GVK().GroupVersion().String(), Kind: res.Kind,
			Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
		},
		Type: kind, Reason: reason, Message: message,
		Source:         corev1.EventSource{Component: r.c.Component, Host: r.c.Host},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: r.c.Component, ReportingInstance: r.c.Host,
	}
}
