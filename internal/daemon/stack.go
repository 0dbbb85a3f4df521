package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
)

// stack is what runs in this process: parts started in the order of their
// dependencies and stopped in the reverse one.
type stack struct {
	log    *slog.Logger
	parts  []*part
	failed chan error
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

func newStack(log *slog.Logger) *stack {
	return &stack{log: log, failed: make(chan error, 1)}
}

// start runs a part on a context of its own, which ends when stop comes to it
// and not with ctx, so that what stands on it can end first.
func (s *stack) start(ctx context.Context, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		if err := run(ctx); err != nil && ctx.Err() == nil {
			select {
			case s.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	}()
}

// wait returns the fault of the first part that fails, or nil when ctx is done.
func (s *stack) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.failed:
		return err
	}
}

// stopOnly ends one part before its turn, if it is there.
func (s *stack) stopOnly(name string) {
	for i, p := range s.parts {
		if p.name == name {
			s.parts = slices.Delete(s.parts, i, i+1)
			p.stop(s.log)
			return
		}
	}
}

func (p *part) stop(log *slog.Logger) {
	p.cancel()
	<-p.done
	log.Debug("stopped", slog.String("part", p.name))
}

// stop ends all parts, the last one first.
func (s *stack) stop() { s.stopDownTo("") }

// stopDownTo ends the parts that were started after name, and name.
func (s *stack) stopDownTo(name string) {
	for len(s.parts) > 0 {
		p := s.parts[len(s.parts)-1]
		s.parts = s.parts[:len(s.parts)-1]
		p.stop(s.log)
		if p.name == name {
			return
		}
	}
}
