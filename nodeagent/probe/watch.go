package probe

import (
	"context"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podsnap/podsnap/internal/pause"
)

// Kind is what a probe asks for.
type Kind string

// The kinds of probes.
const (
	Startup   Kind = "Startup"
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
)

// Set is the probes of one container; nil ones are not asked.
type Set struct {
	Startup, Liveness, Readiness *corev1.Probe
	// Since is when the container started: initial delays count from it.
	Since time.Time
	// Started and Ready say what is known already (of an adopted container).
	Started, Ready bool
}

// Result is a news of a container.
type Result struct {
	Kind Kind
	// OK is the new state: started, alive, ready. It is told when it changes;
	// for Liveness and Startup not OK means that the container has to go.
	OK bool
	// Failed is a check that failed without (yet) changing the state.
	Failed bool
	Err    error // why not
}

// Watch asks all probes of a container until ctx is done, or until it has to
// go, and tells report what changed; report is called by one goroutine a probe.
// Liveness and readiness begin when the container has started. A container
// without a startup probe has started, one without a readiness probe is ready;
// neither is reported.
//
// A state that is waited for (started, ready for the first time) is asked for
// quickly, so that it is seen within about a tenth of the time it took.
// Everything else is asked by the probe's period.
func (p *Prober) Watch(ctx context.Context, s Set, t Target, report func(Result)) {
	if s.Startup != nil && !s.Started {
		limit := period(s.Startup) * time.Duration(failures(s.Startup))
		err := p.await(ctx, Startup, s.Startup, t, s.Since, limit, report)
		if ctx.Err() != nil {
			return
		}
		report(Result{Kind: Startup, OK: err == nil, Err: err})
		if err != nil {
			return
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	if s.Liveness != nil {
		wg.Go(func() {
			defer cancel() // a container that has to go is not asked any more
			if pause.For(ctx, time.Until(s.Since.Add(delay(s.Liveness)))) {
				p.turn(ctx, Liveness, s.Liveness, t, false, report)
			}
		})
	}
	if s.Readiness != nil {
		wg.Go(func() {
			ready := s.Ready
			if !ready {
				if p.await(ctx, Readiness, s.Readiness, t, s.Since, 0, report) != nil {
					return
				}
				ready = true
				report(Result{Kind: Readiness, OK: true})
			}
			for pause.For(ctx, period(s.Readiness)) && p.turn(ctx, Readiness, s.Readiness, t, !ready, report) {
				ready = !ready
			}
		})
	}
	wg.Wait()
}

// await asks until the probe has said yes as often as it has to. The error says
// why not: ctx or, if there is one, the limit is over.
func (p *Prober) await(ctx context.Context, kind Kind, spec *corev1.Probe, t Target, since time.Time, limit time.Duration, report func(Result)) error {
	quickest := 5 * time.Millisecond
	if spec.Exec != nil {
		quickest = 100 * time.Millisecond // each is a process
	}
	begin := since.Add(delay(spec))
	if !pause.For(ctx, time.Until(begin)) {
		return context.Cause(ctx)
	}
	told := begin
	listen := listener(spec, t)
	for yes := int32(0); ; {
		heard := silent
		if listen != nil {
			if heard = listen(ctx); heard != silent {
				listen = nil // from now on it is for the probe to say
			}
		}
		var err error
		if heard != listens || spec.TCPSocket == nil { // else the kernel has said that it would take a connection
			err = p.Check(ctx, spec, t)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		elapsed := time.Since(begin)
		switch {
		case err == nil:
			if yes++; yes >= spec.SuccessThreshold {
				return nil
			}
		case limit > 0 && elapsed >= limit:
			return err
		default:
			yes = 0
			if time.Since(told) >= period(spec) { // not one for each quick check
				told = time.Now()
				report(Result{Kind: kind, Failed: true, Err: err})
			}
		}
		if listen == nil && !pause.For(ctx, min(max(quickest, elapsed/10), time.Second, period(spec))) {
			return context.Cause(ctx)
		}
	}
}

// patience is how long a port is waited for before it is tried all the same.
const patience = time.Second

// heard is what is known of a port.
type heard int

const (
	silent  heard = iota // nothing listens on it, for as long as it was waited
	listens              // something does
	unknown              // nobody can tell
)

// listener waits for the probe's port to be listened on. Nil is a probe of
// something else.
func listener(spec *corev1.Probe, t Target) func(ctx context.Context) heard {
	var at intstr.IntOrString
	switch {
	case t.Listening == nil:
		return nil
	case spec.TCPSocket != nil && spec.TCPSocket.Host == "":
		at = spec.TCPSocket.Port
	case spec.HTTPGet != nil && spec.HTTPGet.Host == "":
		at = spec.HTTPGet.Port
	default:
		return nil
	}
	text, err := t.port(at)
	if err != nil {
		return nil // the probe says so
	}
	port, _ := strconv.Atoi(text)
	return func(ctx context.Context) heard {
		limited, cancel := context.WithTimeout(ctx, min(patience, period(spec)))
		defer cancel()
		switch err := t.Listening(limited, int32(port)); {
		case err == nil:
			return listens
		case limited.Err() == nil:
			return unknown
		}
		return silent
	}
}

// turn asks by the period until the state is to, reports that and answers true;
// false when ctx is done.
func (p *Prober) turn(ctx context.Context, kind Kind, spec *corev1.Probe, t Target, to bool, report func(Result)) bool {
	need := failures(spec)
	if to {
		need = max(spec.SuccessThreshold, 1)
	}
	for run := int32(0); ; {
		err := p.Check(ctx, spec, t)
		switch {
		case ctx.Err() != nil:
			return false
		case (err == nil) != to:
			run = 0
		default:
			run++
		}
		if run >= need {
			report(Result{Kind: kind, OK: to, Err: err})
			return true
		}
		if err != nil {
			report(Result{Kind: kind, Failed: true, Err: err})
		}
		if !pause.For(ctx, period(spec)) {
			return false
		}
	}
}

func period(spec *corev1.Probe) time.Duration { return seconds(spec.PeriodSeconds, 10) }

func delay(spec *corev1.Probe) time.Duration {
	return time.Duration(spec.InitialDelaySeconds) * time.Second
}

func failures(spec *corev1.Probe) int32 {
	if spec.FailureThreshold > 0 {
		return spec.FailureThreshold
	}
	return 3
}
