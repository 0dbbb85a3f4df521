package async

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/types"
)

// Errors of Redrive.
var (
	ErrNoDeadLetter = errors.New("there is no such dead letter") // or not any more
	ErrUnreadable   = errors.New("it can't be called")           // and never will be
)

// DeadLetter is a call that was given up.
type DeadLetter struct {
	Seq      uint64    `json:"seq"` // its name for Redrive; unique, rising
	Time     time.Time `json:"time"`
	Subject  string    `json:"subject"`
	Reason   string    `json:"reason"`
	Attempts int       `json:"attempts"`         // that were made; 0 when it could not be read
	Status   int       `json:"status,omitempty"` // of the last answer; 0 when none was had
	Size     int       `json:"size"`             // of the call's body, bytes
	Call     *Call     `json:"call,omitempty"`   // without its body; nil when it could not be read
}

// Function is whose call it was, as far as the subject tells.
func (d *DeadLetter) Function() types.NamespacedName {
	ns, name, _ := strings.Cut(strings.TrimPrefix(d.Subject, deadPrefix), ".")
	return types.NamespacedName{Namespace: ns, Name: name}
}

// DeadLetters lists what was given up, oldest first, from sequence number from
// on and at most limit. Of one function, of a namespace when f has no name, or
// of all when f is empty. It asks NATS once for each. The answer is never nil
// without an error.
func (q *Queue) DeadLetters(ctx context.Context, f types.NamespacedName, from uint64, limit int) ([]DeadLetter, error) {
	s, err := q.js.Stream(ctx, deadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return []DeadLetter{}, nil // calls are accepted before it is made
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", deadStream, err)
	}
	subject := deadPrefix + ">"
	switch {
	case f.Name != "":
		subject = deadPrefix + f.Namespace + "." + f.Name
	case f.Namespace != "":
		subject = deadPrefix + f.Namespace + ".>"
	}
	out := []DeadLetter{}
	for from = max(from, 1); len(out) < limit; {
		m, err := s.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read a dead letter: %w", err)
		}
		out = append(out, letter(m))
		from = m.Sequence + 1
	}
	return out, nil
}

func letter(m *jetstream.RawStreamMsg) DeadLetter {
	d := DeadLetter{Seq: m.Sequence, Time: m.Time, Subject: m.Subject, Reason: m.Header.Get(headerReason), Size: len(m.Data)}
	d.Status, _ = strconv.Atoi(m.Header.Get(headerStatus)) // absent is 0
	if c, err := decode(m.Header, nil); err == nil {       // many bodies would not fit
		d.Call, d.Attempts = c, c.Attempt+1
	}
	return d
}

// Redrive puts a dead letter back into the queue, with all its attempts before
// it, and removes it. If that breaks off in between, the call is in both and
// Redrive may be called again.
func (q *Queue) Redrive(ctx context.Context, seq uint64) error {
	s, err := q.js.Stream(ctx, deadStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: %d", ErrNoDeadLetter, seq)
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", deadStream, err)
	}
	m, err := s.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("%w: %d", ErrNoDeadLetter, seq)
	}
	if err != nil {
		return fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	c, err := decode(m.Header, m.Data)
	if err != nil {
		return fmt.Errorf("dead letter %d: %w: %w", seq, ErrUnreadable, err)
	}
	c.Attempt, c.After = 0, time.Time{}
	c.Round++
	next, err := c.message()
	if err != nil {
		return err
	}
	if err := q.store(ctx, next); err != nil {
		return err
	}
	if err := s.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("dead letter %d is in the queue again, but could not be removed: %w", seq, err)
	}
	return nil
}
