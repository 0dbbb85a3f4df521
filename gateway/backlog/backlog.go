// Package backlog tells the control plane how many asynchronous calls wait, for
// functions that scale by it.
package backlog

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"k8s.io/apimachinery/pkg/types"
)

// quiet is how often an empty queue is looked at without a Kick: another
// gateway may have filled it, and died.
const quiet = 30 * time.Second

// Config says what to tell whom. Capacity, Gateway and Pending are required.
type Config struct {
	Capacity api.Capacity
	Gateway  string // this gateway's name; the backlog is reported beside its demand, under a name of its own
	// Pending counts the calls that are not done, of all functions that have any.
	Pending func(context.Context) ([]openfaas.PendingCalls, error)
	Every   time.Duration // between two reports while calls wait; 0 is 1 s
	Log     *slog.Logger  // nil discards
}

// Backlog reports while Run runs.
type Backlog struct {
	c    Config
	kick chan struct{}
	told map[types.NamespacedName]bool // that have something waiting, by the last report
}

// New makes a Backlog.
func New(c Config) *Backlog {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Backlog{c: c, kick: make(chan struct{}, 1), told: map[types.NamespacedName]bool{}}
}

// Kick says that there is one call more. It never waits.
func (b *Backlog) Kick() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// Run reports until ctx is done: at once when an empty queue gets a call, then
// regularly, and once more when it is empty again.
func (b *Backlog) Run(ctx context.Context) error {
	for {
		next, kick := quiet, b.kick
		err := b.report(ctx)
		if err != nil && ctx.Err() == nil {
			b.c.Log.Debug("report waiting calls", slog.Any("error", err))
		}
		if len(b.told) > 0 || err != nil {
			next, kick = b.c.Every, nil // a crowd of calls is one report
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-kick:
			timer.Stop()
		}
	}
}

func (b *Backlog) report(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	calls, err := b.c.Pending(ctx)
	if err != nil {
		return err
	}
	now, demand := map[types.NamespacedName]bool{}, make([]api.Demand, 0, len(calls))
	for _, p := range calls {
		if p.Pending == 0 {
			continue
		}
		k := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		now[k] = true
		demand = append(demand, api.Demand{Function: k, Pending: int(min(p.Pending, 1<<31-1))}) //nolint:gosec // bounded
	}
	for k := range b.told {
		if !now[k] {
			demand = append(demand, api.Demand{Function: k})
		}
	}
	if len(demand) == 0 {
		return nil
	}
	if err := b.c.Capacity.Report(ctx, b.c.Gateway+" backlog", demand); err != nil {
		return err
	}
	b.told = now
	return nil
}
