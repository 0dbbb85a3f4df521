package async

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/internal/pause"
)

// Call is one asynchronous call.
type Call struct {
	ID       string               `json:"id"` // X-Call-Id
	Function types.NamespacedName `json:"function"`
	Method   string               `json:"method"`
	Path     string               `json:"path,omitempty"` // below the function, escaped, with its slash
	Query    string               `json:"query,omitempty"`
	Header   http.Header          `json:"header,omitempty"`
	Callback string               `json:"callback,omitempty"` // URL, "" is none
	Start    time.Time            `json:"start"`
	Attempt  int                  `json:"attempt"` // 0 is the first
	After    time.Time            `json:"after,omitzero"`
	Round    int                  `json:"round,omitempty"` // how often it was taken from the dead letters
	// Key tells this call from others, as a caller may give several the same ID.
	// Enqueue sets it when it is "".
	Key  string `json:"key,omitempty"`
	Body []byte `json:"-"`
}

// ErrFull is a queue that has no room for one more call.
var ErrFull = errors.New("the queue of asynchronous calls is full")

// Enqueue returns nil when the call is on the disk of the queue. While NATS
// does not answer it tries again, with the same message id so that a copy is
// dropped, until Config.Hold is over; then it is unknown whether the call was
// stored.
func (q *Queue) Enqueue(ctx context.Context, c Call) error {
	if c.Key == "" {
		c.Key = rand.Text()
	}
	m, err := c.message()
	if err != nil {
		return err
	}
	if err := q.store(ctx, m); err != nil {
		return err
	}
	q.m.submitted.Inc()
	return nil
}

func (q *Queue) store(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeoutCause(ctx, q.c.Hold, fmt.Errorf("NATS did not take the call within %s", q.c.Hold))
	defer cancel()
	var last error
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		try, done := context.WithTimeout(ctx, 2*time.Second)
		_, err := q.js.PublishMsg(try, m)
		done()
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*jetstream.APIError](err); ok && (e.ErrorCode == codeMaxBytes || e.ErrorCode == codeMaxMsgs || e.ErrorCode == codeNoSpace) {
			return fmt.Errorf("%w: %s", ErrFull, e.Description)
		}
		if errors.Is(err, nats.ErrMaxPayload) {
			return fmt.Errorf("the call is larger than NATS takes (%d bytes): %w", q.conn.MaxPayload(), err)
		}
		last = err
		if !pause.For(ctx, wait) {
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), last)
		}
	}
}

// JetStream's error codes for a store that has no room.
const (
	codeMaxBytes = 10077
	codeMaxMsgs  = 10084
	codeNoSpace  = 10023
	// The streams' bounds together are more than the server may store.
	codeNoStorage = 10047
)

// message is the call as it is stored. The message id names the attempt and its
// round, so that the stream drops a copy of the same attempt, but not what is
// called again because somebody wants it.
func (c *Call) message() (*nats.Msg, error) {
	meta, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(prefix + c.Function.Namespace + "." + c.Function.Name)
	m.Header.Set(headerCall, string(meta))
	id := fmt.Sprintf("%s/%s/%s/%d", c.ID, c.Function, c.Key, c.Attempt)
	if c.Round > 0 {
		id += fmt.Sprintf("/%d", c.Round)
	}
	m.Header.Set(jetstream.MsgIDHeader, id)
	m.Data = c.Body
	return m, nil
}

// decode reads a stored call.
func decode(h nats.Header, data []byte) (*Call, error) {
	c := &Call{}
	if err := json.Unmarshal([]byte(h.Get(headerCall)), c); err != nil {
		return nil, fmt.Errorf("header %s: %w", headerCall, err)
	}
	if c.Function.Name == "" || c.Function.Namespace == "" || c.ID == "" {
		return nil, fmt.Errorf("header %s names no function or has no id", headerCall)
	}
	c.Body = data
	return c, nil
}

// bury stores a message that is given up.
func (q *Queue) bury(ctx context.Context, subject string, h nats.Header, data []byte, reason string) error {
	m := nats.NewMsg(deadPrefix + subject[min(len(prefix), len(subject)):])
	maps.Copy(m.Header, h)
	m.Header.Set(headerReason, reason)
	m.Data = data
	if err := q.store(ctx, m); err != nil {
		return fmt.Errorf("store a dead letter: %w", err)
	}
	q.m.dead.Inc()
	q.c.Log.Warn("an asynchronous call was given up", slog.String("subject", subject), slog.String("reason", reason))
	return nil
}
