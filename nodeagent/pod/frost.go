package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// frost is whether a pod's processes are stopped. Its lock is held while the
// freezer is asked, so that its answers are in the order of the calls. Run's
// goroutine never takes it: State.Frozen tells that one.
type frost struct {
	mu     sync.Mutex
	still  []string // containers that are frozen, or may be; nil: the pod runs
	thawed uint64   // rounds up to this one are over
	held   int      // commands that are being executed
}

// Freeze stops the pod's processes; see api.Agent.SetFrozen.
func (w *Worker) Freeze(ctx context.Context, round uint64) error {
	f, ok := w.c.Runtime.(runtime.Freezer)
	if !ok {
		return w.noFreezer()
	}
	w.frost.mu.Lock()
	defer w.frost.mu.Unlock()
	switch {
	case round <= w.frost.thawed:
		return w.warm(fmt.Errorf("round %d was ended", round))
	case w.frost.held > 0:
		return w.warm(errors.New("a command is being executed in it"))
	case w.frost.still != nil:
		return nil
	}
	ids, err := w.settleDown(ctx)
	if err != nil {
		return err
	}
	w.frost.still = ids
	for _, id := range ids {
		if err := f.Freeze(ctx, id); err != nil {
			err = fmt.Errorf("freeze: %w", err)
			if errors.Is(err, errors.ErrUnsupported) {
				err = w.noFreezer()
			}
			return errors.Join(err, w.thaw(ctx, f))
		}
	}
	return nil
}

// Thaw lets the pod's processes go on and ends the round.
func (w *Worker) Thaw(ctx context.Context, round uint64) error {
	w.frost.mu.Lock()
	defer w.frost.mu.Unlock()
	w.frost.thawed = max(w.frost.thawed, round)
	f, ok := w.c.Runtime.(runtime.Freezer)
	if !ok || w.frost.still == nil {
		return nil
	}
	begin := time.Now()
	err := w.thaw(ctx, f)
	if err == nil && w.c.Thawed != nil {
		w.c.Thawed(time.Since(begin))
	}
	return err
}

// thaw is to be called with w.frost.mu held. What is not there any more is not
// frozen, and neither is what has no freezer.
func (w *Worker) thaw(ctx context.Context, f runtime.Freezer) error {
	for _, id := range w.frost.still {
		if err := f.Thaw(ctx, id); err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("thaw: %w", err)
		}
	}
	w.frost.still = nil
	w.post(func() { w.s.Frozen = false })
	return nil
}

// hold has the pod run until release is called.
func (w *Worker) hold(ctx context.Context) (release func(), err error) {
	w.frost.mu.Lock()
	defer w.frost.mu.Unlock()
	if f, ok := w.c.Runtime.(runtime.Freezer); ok && w.frost.still != nil {
		if err := w.thaw(ctx, f); err != nil {
			return nil, err
		}
	}
	w.frost.held++
	return func() {
		w.frost.mu.Lock()
		defer w.frost.mu.Unlock()
		w.frost.held--
	}, nil
}

// settleDown has Run's goroutine end the probes and answers with the containers
// to freeze, or says what speaks against it.
func (w *Worker) settleDown(ctx context.Context) ([]string, error) {
	type answer struct {
		ids []string
		err error
	}
	told := make(chan answer, 1)
	w.post(func() {
		ids, why := w.s.idle()
		if why != "" {
			told <- answer{err: w.warm(errors.New(why))}
			return
		}
		w.s.Frozen = true
		for name, p := range w.probes {
			p.cancel()
			delete(w.probes, name)
		}
		told <- answer{ids: ids}
	})
	select {
	case a := <-told:
		return a.ids, a.err
	case <-w.over:
		return nil, apierrors.NewNotFound(api.Pods.GR(), string(w.Pod().UID))
	case <-ctx.Done():
		w.post(func() { w.s.Frozen = false }) // after the message above
		return nil, context.Cause(ctx)
	}
}

// idle lists what may be frozen now, or says why nothing may.
func (s *State) idle() (ids []string, why string) {
	switch {
	case s.Stop != nil || s.Final != nil:
		return nil, "it ends"
	case len(s.Busy) > 0:
		return nil, "something is being done to it"
	case s.Sandbox.ID == "" || s.Sandbox.Dead:
		return nil, "it has no sandbox"
	}
	for spec, init := range all(&s.Pod.Spec) {
		c := s.Containers[spec.Name]
		switch {
		case !init && !s.ready(spec), c.running() && c.Unhealthy != "":
			return nil, "container " + spec.Name + " is not ready"
		case c.running():
			ids = append(ids, c.Current.ID)
		}
	}
	return ids, ""
}

// wake has an action find a pod that runs.
func (w *Worker) wake(do func(context.Context) func()) func(context.Context) func() {
	return func(ctx context.Context) func() {
		w.warn("thaw", w.Thaw(ctx, 0))
		return do(ctx)
	}
}

// thawNow tells actions that a frozen pod has to be thawed for: signals wait
// for the thaw, and what is started in frozen control groups does not start.
func (a Action) thawNow() bool {
	switch a.Kind {
	case StartContainer, StopContainer, KillContainer, RemoveContainer:
		return true
	case PrepareVolumes, StartSandbox, RemoveSandbox, Pull, RemoveVolumes, Finish:
	}
	return false
}

// frozenIn are the containers of an adopted sandbox that are frozen.
func frozenIn(sandbox *runtime.Sandbox) (ids []string) {
	if sandbox == nil {
		return nil
	}
	for _, c := range sandbox.Containers {
		if c.Frozen {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func (w *Worker) noFreezer() error {
	return apierrors.NewMethodNotSupported(api.Pods.GR(), "freeze")
}

func (w *Worker) warm(why error) error {
	return apierrors.NewConflict(api.Pods.GR(), w.Pod().Name, why)
}
