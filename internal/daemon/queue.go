package daemon

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/gateway/async"
	"github.com/podsnap/podsnap/gateway/dialect"
	"github.com/podsnap/podsnap/internal/openfaas"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// copies is how many servers keep each asynchronous call; 0 is the default.
func (c *Config) copies() int {
	if c.Cluster == nil || c.NATS != "" {
		return 0
	}
	return 3 // two that acknowledge are most of them, however many servers there are
}

// lookInto shows the queue to the gateway. The queue is made after it.
func lookInto(queue func() *async.Queue) dialect.Queue {
	return dialect.Queue{
		Pending: func(ctx context.Context) ([]openfaas.PendingCalls, error) {
			counts, err := queue().Pending(ctx)
			if err != nil {
				return nil, queueFault(err, 0)
			}
			out := make([]openfaas.PendingCalls, 0, len(counts))
			for f, n := range counts {
				name, ns, _ := strings.Cut(f, ".")
				out = append(out, openfaas.PendingCalls{Name: name, Namespace: ns, Pending: n})
			}
			return out, nil
		},
		DeadLetters: func(ctx context.Context, f types.NamespacedName, from uint64, limit int) ([]openfaas.DeadLetter, error) {
			dead, err := queue().DeadLetters(ctx, f, from, limit)
			if err != nil {
				return nil, queueFault(err, 0)
			}
			out := make([]openfaas.DeadLetter, 0, len(dead))
			for _, d := range dead {
				out = append(out, deadLetter(d))
			}
			return out, nil
		},
		Redrive: func(ctx context.Context, seq uint64) error { return queueFault(queue().Redrive(ctx, seq), seq) },
	}
}

func deadLetter(d async.DeadLetter) openfaas.DeadLetter {
	f := d.Function()
	out := openfaas.DeadLetter{
		Seq: d.Seq, Name: f.Name, Namespace: f.Namespace, Reason: d.Reason,
		Attempts: d.Attempts, Status: d.Status, Time: d.Time, Size: d.Size,
	}
	if d.Call != nil {
		out.CallID = d.Call.ID
	}
	return out
}

// queueFault is the queue's error as the API knows errors. What is not about
// the dead letter is about NATS, which comes back.
func queueFault(err error, seq uint64) error {
	letters := schema.GroupResource{Resource: "dead-letters"}
	name := strconv.FormatUint(seq, 10)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, async.ErrNoDeadLetter):
		return apierrors.NewNotFound(letters, name)
	case errors.Is(err, async.ErrUnreadable):
		return apierrors.NewConflict(letters, name, err)
	}
	return apierrors.NewServiceUnavailable("the queue of asynchronous calls: " + err.Error())
}
