package pod

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/probe"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/volume"
)

// Recorder tells of events; internal/record implements it.
type Recorder interface {
	Event(obj api.Object, eventType, reason, message string)
}

// Config is what all workers of a node share.
type Config struct {
	Objects api.Objects // nil: the pod is not in them, and only Publish is told of it
	Runtime runtime.Runtime
	Images  runtime.Images
	Volumes *volume.Manager
	Prober  *probe.Prober
	HostIP  string
	HostIP6 string // "" is none
	LogDir  string // folder of the containers' logs
	Pids    int64  // most processes of a container; 0 is 1024
	Log     *slog.Logger

	Recorder Recorder // nil is none
	// Guard is asked before a process of the pod runs, and returns when what is
	// enforced on its address is in the kernel; nil: nothing is.
	Guard func(ctx context.Context, p *corev1.Pod, addresses []string) error
	// Stage is told how a part of a start went: image, sandbox, container or ready; nil is none.
	Stage   func(stage string, d time.Duration, err error)
	Thawed  func(d time.Duration)                // a frozen pod runs again, which took so long; nil is none
	Started func(d time.Duration)                // a pod was ready for the first time after so long; nil is none
	Publish func(p *corev1.Pod)                  // told each new state, the object with its status; nil is none
	Sandbox func(w *Worker, id string, has bool) // a sandbox is now the worker's, or not any more; nil is none
}

// Worker runs one pod. Make it with NewWorker; Run does the work, the other
// methods tell it what happened and return soon. They are safe for concurrent
// use.
type Worker struct {
	c     Config
	s     *State
	inbox chan func()
	over  chan struct{} // closed when Run has ended
	ops   sync.WaitGroup
	log   *slog.Logger
	frost frost

	// Of Run's goroutine alone:
	early    []runtime.Exit // exits of what is just being started
	probes   map[string]*probing
	base     *corev1.Pod // the newest version of the object, as far as known
	writing  bool
	written  corev1.PodStatus // as in Objects
	dirty    time.Time        // since when the status is not the written one
	failures int              // of writes in a row
	retry    time.Time        // of the write
	told     corev1.PodStatus // as published
	toldOf   *corev1.Pod      // the object that it was published of
	accepted time.Time
	wasReady bool
	stale    bool      // what is mounted may be older than what it is of
	renewing bool      // and is being brought up to date
	weighing bool      // what the pod has on disk is being measured, or never is
	measure  time.Time // when it is to be

	mu      sync.Mutex
	pod     *corev1.Pod   // with the published status
	changed chan struct{} // closed when pod is replaced
}

type probing struct {
	id     string
	cancel context.CancelFunc
}

// NewWorker takes a pod on. sandbox is what the engine has of it, or nil; what
// runs in it goes on.
func NewWorker(c Config, p *corev1.Pod, sandbox *runtime.Sandbox) *Worker {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Prober == nil {
		c.Prober = &probe.Prober{}
	}
	if c.Pids == 0 {
		c.Pids = 1024
	}
	now := time.Now()
	w := &Worker{
		c: c, s: New(p, c.HostIP, sandbox, now), pod: p, base: p,
		inbox: make(chan func(), 16), over: make(chan struct{}), changed: make(chan struct{}),
		probes: map[string]*probing{}, written: p.Status, told: p.Status, accepted: now,
		log: c.Log.With(slog.String("pod", p.Namespace+"/"+p.Name), slog.String("uid", string(p.UID))),
	}
	w.s.HostIP6 = c.HostIP6
	w.wasReady = isReady(&p.Status)
	for _, c := range w.s.Containers {
		if c.Current != nil && c.Current.State == runtime.Exited {
			w.hear(c) // it ended while nobody looked
		}
	}
	w.frost.still = frozenIn(sandbox)
	w.s.Frozen = w.frost.still != nil
	return w
}

// Pod is the object with the status as it is now. It must not be changed.
func (w *Worker) Pod() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// Await returns true when the pod as it is now satisfies cond, and false when
// the worker has ended or stop is closed before.
func (w *Worker) Await(stop <-chan struct{}, cond func(*corev1.Pod) bool) bool {
	for {
		w.mu.Lock()
		p, changed := w.pod, w.changed
		w.mu.Unlock()
		if cond(p) {
			return true
		}
		select {
		case <-changed:
		case <-w.over:
			return false
		case <-stop:
			return false
		}
	}
}

// Update tells of a newer version of the object.
func (w *Worker) Update(p *corev1.Pod) {
	w.post(func() {
		w.stale = w.stale || tellsOfItself(p) && (!maps.Equal(w.base.Labels, p.Labels) || !maps.Equal(w.base.Annotations, p.Annotations))
		w.base = p
		w.s.Observe(p, time.Now())
	})
}

// Stop ends the pod within grace; see Mode. For Gone and Delete a negative
// grace is the pod's own.
func (w *Worker) Stop(mode Mode, grace time.Duration) {
	w.post(func() {
		if grace < 0 {
			grace = graceOf(w.s.Pod)
		}
		w.log.Info("stop", slog.Int("mode", int(mode)), slog.Duration("grace", grace))
		w.s.End(mode, grace, time.Now())
	})
}

// Exited tells of the end of a container or of a sandbox; others than the
// pod's are ignored.
func (w *Worker) Exited(e runtime.Exit) {
	w.post(func() { w.exited(e) })
}

func (w *Worker) post(f func()) {
	select {
	case w.inbox <- f:
	case <-w.over:
	}
}

// Run works until the pod is gone, or until ctx is done: then the pod goes on
// without it. It may be called once.
func (w *Worker) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		close(w.over) // before the wait: what is under way may want to tell something
		w.ops.Wait()
	}()
	if w.c.Sandbox != nil && w.s.Sandbox.ID != "" {
		w.c.Sandbox(w, w.s.Sandbox.ID, true)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wake := w.step(ctx)
		if w.s.Done {
			return nil
		}
		timer.Stop()
		var alarm <-chan time.Time
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
			alarm = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-alarm:
		case f := <-w.inbox:
			f()
			w.drain()
		}
	}
}

// drain takes in all that is there, so that it costs one decision.
func (w *Worker) drain() {
	for {
		select {
		case f := <-w.inbox:
			f()
		default:
			return
		}
	}
}

// step decides, begins what has to be done and answers with when to look again.
func (w *Worker) step(ctx context.Context) time.Time {
	now := time.Now()
	w.s.Expire(now)
	r := Step(w.s, now)
	if r.Final {
		w.s.Final = r.Status.DeepCopy()
		w.log.InfoContext(ctx, "ended", slog.String("phase", string(r.Status.Phase)))
	}
	w.backoffs(r.Status)
	for _, name := range outOfMemory(&w.s.Prev, &r.Status) {
		w.event(corev1.EventTypeWarning, "OOMKilled", w.s.killedFor(name))
	}
	w.s.Prev = r.Status
	for _, a := range r.Actions {
		w.begin(ctx, a, now)
	}
	w.publish()
	w.watch(ctx)
	w.renew(ctx)
	measure := w.weigh(ctx, now)
	wake := r.Wake
	if at := w.write(ctx, now); !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
		wake = at
	}
	if r.Final {
		return now
	}
	if !measure.IsZero() && (wake.IsZero() || measure.Before(wake)) {
		wake = measure
	}
	return wake
}

// publish tells the node of a new state, and readers of a new object.
func (w *Worker) publish() {
	news := !api.Alike(&w.told, &w.s.Prev)
	if !news && w.toldOf == w.s.Pod {
		return
	}
	w.told, w.toldOf = w.s.Prev, w.s.Pod
	p := *w.s.Pod // the object is shared: only the copy's status is new
	p.Status = w.s.Prev
	w.mu.Lock()
	w.pod = &p
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	w.ready(&p)
	if news && w.c.Publish != nil {
		w.c.Publish(&p)
	}
}

func (w *Worker) ready(p *corev1.Pod) {
	if w.wasReady || !isReady(&p.Status) {
		return
	}
	w.wasReady = true
	if w.c.Started != nil {
		w.c.Started(time.Since(w.accepted))
	}
}

func (w *Worker) exited(e runtime.Exit) {
	if e.At.IsZero() {
		e.At = time.Now() // back-off counts from it
	}
	if e.Sandbox != w.s.Sandbox.ID {
		if w.s.Sandbox.ID == "" && w.s.starting() {
			w.early = append(w.early, e)
		}
		return
	}
	if e.Container == "" {
		if !w.s.Sandbox.Dead {
			w.event(corev1.EventTypeNormal, "SandboxChanged", "The pod's sandbox has died; it is made anew")
		}
		w.s.SandboxDied(e.Sandbox)
		return
	}
	if !w.ended(e) && w.s.starting() {
		w.early = append(w.early, e)
	}
}

// late takes in exits that were told before the start they belong to, and
// forgets the others when nothing is being started.
func (w *Worker) late() {
	early := w.early
	w.early = nil
	for _, e := range early {
		switch {
		case e.Sandbox == w.s.Sandbox.ID && e.Container == "":
			w.s.SandboxDied(e.Sandbox)
		case e.Sandbox == w.s.Sandbox.ID && w.ended(e):
		default:
			w.early = append(w.early, e)
		}
	}
	if !w.s.starting() {
		w.early = nil
	}
}
