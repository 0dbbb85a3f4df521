// Package history records what concurrent clients of an api.Objects ask and are
// told, and judges it: whether the answers are those that one register for each
// object could have given, one question after the other, each at some moment
// between its call and its return (linearizability); and whether watches have
// told the same story. Answers that leave open whether a write took place may be
// either.
package history

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is where the objects of a history are.
const Namespace = "history"

// Verb is what is asked of an object.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Update Verb = "update"
	Patch  Verb = "patch"
	Delete Verb = "delete"
	Get    Verb = "get"
)

// Fate is what a client is told about what it has asked for.
type Fate string

// The fates.
const (
	Done     Fate = "done"
	Missing  Fate = "missing"  // NotFound
	Exists   Fate = "exists"   // AlreadyExists
	Conflict Fate = "conflict" // another revision than the one that was named
	Unknown  Fate = "unknown"  // it may have taken place, or do so later
)

// Question is what one client asks. Values are written once at most, so that one
// that is read tells who wrote it.
type Question struct {
	Verb   Verb
	Key    string
	Value  string // written
	Expect int64  // the revision that must be the newest; 0 is any
}

// Answer is what it is told.
type Answer struct {
	Fate  Fate
	Value string // read, or the last one before a deletion; "" is not told
	Rev   int64  // of the object; 0 is not told
	Err   string // for people
}

// Log is a history. The zero value is empty; its methods are safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	begin time.Time
}

// Ops is what was recorded.
func (l *Log) Ops() []porcupine.Operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ops)
}

// Changes is how many changes are known to have been made.
func (l *Log) Changes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, op := range l.ops {
		if op.Output.(Answer).Fate == Done && op.Input.(Question).Verb != Get {
			n++
		}
	}
	return n
}

func (l *Log) now() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begin.IsZero() {
		l.begin = time.Now()
	}
	return int64(time.Since(l.begin))
}

func (l *Log) add(op porcupine.Operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// forever is when a question of unknown fate has returned.
const forever = int64(1) << 62

// Ask has o answer q, and records both.
func (l *Log) Ask(ctx context.Context, client int, o api.Objects, q Question) Answer {
	call := l.now()
	a := ask(ctx, o, q)
	op := porcupine.Operation{ClientId: client, Input: q, Call: call, Output: a, Return: l.now()}
	if a.Fate == Unknown {
		if q.Verb == Get {
			return a // nothing was learned
		}
		op.Return = forever
	}
	l.add(op)
	return a
}

func ask(ctx context.Context, o api.Objects, q Question) Answer {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: q.Key}, Data: map[string]string{"v": q.Value}}
	expect := ""
	if q.Expect != 0 {
		expect = strconv.FormatInt(q.Expect, 10)
	}
	var got api.Object
	var err error
	switch q.Verb {
	case Create:
		got, err = o.Create(ctx, obj)
	case Update:
		obj.ResourceVersion = expect
		got, err = o.Update(ctx, obj, api.UpdateOptions{})
	case Patch:
		p := api.Patch{Type: "application/merge-patch+json", Data: fmt.Appendf(nil, `{"data":{"v":%q}}`, q.Value)}
		got, err = o.Patch(ctx, api.ConfigMaps, Namespace, q.Key, p)
	case Delete:
		got, err = o.Delete(ctx, api.ConfigMaps, Namespace, q.Key, api.DeleteOptions{ResourceVersion: expect})
	case Get:
		got, err = o.Get(ctx, api.ConfigMaps, Namespace, q.Key)
	}
	return answer(got, err)
}

func answer(got api.Object, err error) Answer {
	switch {
	case err == nil:
		a := Answer{Fate: Done}
		if cm, ok := got.(*corev1.ConfigMap); ok {
			a.Value, a.Rev = cm.Data["v"], revision(cm)
		}
		return a
	case apierrors.IsNotFound(err):
		return Answer{Fate: Missing, Err: err.Error()}
	case apierrors.IsAlreadyExists(err):
		return Answer{Fate: Exists, Err: err.Error()}
	case apierrors.IsConflict(err):
		return Answer{Fate: Conflict, Err: err.Error()}
	}
	return Answer{Fate: Unknown, Err: err.Error()}
}

func revision(o metav1.Object) int64 {
	rev, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64) // absent is 0
	return rev
}

// Check says what is wrong with a history; nil is nothing. It gives up after limit.
func (l *Log) Check(limit time.Duration) error {
	keys := map[string][]porcupine.Operation{}
	for _, op := range l.Ops() {
		k := op.Input.(Question).Key
		keys[k] = append(keys[k], op)
	}
	end := time.Now().Add(limit)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		switch porcupine.CheckOperationsTimeout(model, keys[k], max(time.Millisecond, time.Until(end))) {
		case porcupine.Ok:
		case porcupine.Unknown:
			return fmt.Errorf("%s: %d questions could not be judged within %s", k, len(keys[k]), limit)
		case porcupine.Illegal:
			return fmt.Errorf("%s: no order of these questions explains their answers:\n%s", k, story(keys[k]))
		}
	}
	return nil
}

// Learn tells a history what has really happened, so that less of it is of unknown fate:
// a write that was carried out was so before its revision, or a later one of the
// object, was told to anybody; one that was not is left out, as deletions are of
// what was never deleted. Else each of them doubles what Check has to look at.
func (l *Log) Learn(truth []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	written, deleted := map[string]Event{}, map[string]bool{}
	for _, e := range truth {
		if e.Type == api.Deleted {
			deleted[e.Key] = true
		} else {
			written[e.Value] = e
		}
	}
	told := l.ops
	l.ops = nil
	for _, op := range told {
		q := op.Input.(Question)
		if op.Output.(Answer).Fate != Unknown {
			l.ops = append(l.ops, op)
			continue
		}
		if e, is := written[q.Value]; is && e.Key == q.Key {
			op.Output, op.Return = Answer{Fate: Done, Value: q.Value, Rev: e.Rev}, shown(told, e)
			l.ops = append(l.ops, op)
		} else if q.Verb == Delete && deleted[q.Key] {
			l.ops = append(l.ops, op)
		}
	}
}

// shown is the first moment at which somebody had been told of e, or of what came
// after it.
func shown(told []porcupine.Operation, e Event) int64 {
	first := forever
	for _, op := range told {
		if q, a := op.Input.(Question), op.Output.(Answer); q.Key == e.Key && a.Fate == Done && a.Rev >= e.Rev {
			first = min(first, op.Return)
		}
	}
	return first
}

func story(ops []porcupine.Operation) (out string) {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range ops {
		back := fmt.Sprintf("%12.6f", float64(op.Return)/1e9)
		if op.Return == forever {
			back = "           …"
		}
		out += fmt.Sprintf("%12.6f %s client %2d %s\n", float64(op.Call)/1e9, back, op.ClientId, describe(op.Input, op.Output))
	}
	return out
}

func describe(in, out any) string {
	q, a := in.(Question), out.(Answer)
	s := string(q.Verb)
	if q.Value != "" {
		s += " " + q.Value
	}
	if q.Expect != 0 {
		s += fmt.Sprintf(" at %d", q.Expect)
	}
	s += " → " + string(a.Fate)
	if a.Fate == Done {
		s += fmt.Sprintf(" %s at %d", a.Value, a.Rev)
	}
	return s
}
