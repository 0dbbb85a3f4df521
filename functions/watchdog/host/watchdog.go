package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lockFile is what exec probes of the contract look for.
	lockFile = "/tmp/.lock"
	// stopTime is how long the function's process may take to end after
	// SIGTERM, once its requests are finished.
	stopTime = 3 * time.Second
)

// watchdog serves one function.
type watchdog struct {
	c        *config
	out      *behind
	log      *log.Logger // at once
	calls    *log.Logger // behind the answers
	metrics  metrics
	children family
	inflight atomic.Int64
	healthy  atomic.Bool  // accepting requests
	locked   bool         // the lock file was written
	function http.Handler // of mode inproc
	ready    chan net.Addr
	once     once // the proxy of http mode
}

// newWatchdog logs to w. No date: whoever stores the log stamps each line.
func newWatchdog(c *config, w io.Writer) *watchdog {
	b := &behind{to: w}
	return &watchdog{c: c, out: b, log: log.New(b, "", 0), calls: log.New(later{b}, "", 0), ready: make(chan net.Addr, 1)}
}

// run serves until SIGTERM or SIGINT comes, ctx is done or the function's
// process ends. Other signals go to that process. The error of a regular end is
// nil.
func (w *watchdog) run(ctx context.Context, signals <-chan os.Signal) error {
	defer w.out.end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel(nil)
	if os.Getpid() == 1 {
		wait.Go(func() { w.children.reap(ctx) })
	}

	handler, child, err := w.handler()
	if err != nil {
		return err
	}
	if child != nil {
		defer child.stop(stopTime)
		wait.Go(func() {
			select {
			case <-child.done:
				cancel(fmt.Errorf("the function's process ended: %w", child.err))
			case <-ctx.Done():
			}
		})
	}
	term := make(chan struct{})
	wait.Go(func() { w.forward(ctx, signals, child, term) })
	if child != nil && !w.awaitUpstream(ctx, term) {
		return context.Cause(ctx)
	}
	return w.serve(ctx, handler, term)
}

// forward passes signals on to the child until ctx is done; the first one that
// means "end" closes term.
func (w *watchdog) forward(ctx context.Context, signals <-chan os.Signal, child *child, term chan struct{}) {
	ended := false
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-signals:
			switch {
			case s == syscall.SIGTERM || s == syscall.SIGINT:
				if !ended {
					close(term)
				}
				ended = true
			case child != nil:
				if s, ok := s.(syscall.Signal); ok {
					child.signal(s)
				}
			}
		}
	}
}

// serve opens the port, and closes it in good order when term is closed.
func (w *watchdog) serve(ctx context.Context, handler http.Handler, term <-chan struct{}) error {
	l, err := listen(ctx, w.c.port)
	if err != nil {
		return fmt.Errorf("listen for requests: %w", err)
	}
	s := &http.Server{
		Handler:           w.routes(handler),
		ReadHeaderTimeout: w.c.readTimeout,
		// The answer to a request that took too long must still get out.
		WriteTimeout:   max(w.c.writeTimeout, w.c.execTimeout) + 5*time.Second,
		MaxHeaderBytes: 1 << 20,
		ErrorLog:       w.log,
	}
	w.setHealthy(true)
	defer w.setHealthy(false)
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	w.ready <- l.Addr()
	var wait sync.WaitGroup
	defer wait.Wait()
	metrics, stop := context.WithCancel(ctx)
	defer stop()
	wait.Go(func() { w.serveMetrics(metrics) }) // now, not before: a caller waits for the function

	select {
	case err := <-failed:
		return fmt.Errorf("serve requests: %w", err)
	case <-ctx.Done():
		err = context.Cause(ctx)
		_ = s.Close()
	case <-term:
		err = w.drain(ctx, s)
	}
	<-failed
	return err
}

// listen opens a port on all addresses. Without multipath TCP, which no gateway
// speaks and which costs a start several system calls.
func listen(ctx context.Context, port string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp", ":"+port)
}

// drain ends accepting and waits for the requests in flight.
func (w *watchdog) drain(ctx context.Context, s *http.Server) error {
	w.log.Printf("SIGTERM: no new requests; finishing %d", w.inflight.Load())
	w.setHealthy(false)
	if w.c.stopDelay > 0 { // asked for: a balancer has to see the failing health check first
		select {
		case <-time.After(w.c.stopDelay):
		case <-ctx.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, w.c.limit()+time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		_ = s.Close()
		return fmt.Errorf("requests were cut off after %v: %w", w.c.limit(), err)
	}
	return nil
}

// setHealthy is what /_/health answers, and the lock file that exec probes look
// for. A root that is read-only is no fault: the health endpoint still tells.
func (w *watchdog) setHealthy(yes bool) {
	w.healthy.Store(yes)
	switch {
	case w.c.lock == "":
	case yes:
		if err := os.WriteFile(w.c.lock, nil, 0o600); err != nil {
			w.log.Printf("no lock file (exec probes on it will fail, /_/health works; suppress_lock=true hides this): %v", err)
			return
		}
		w.locked = true
	case w.locked:
		_ = os.Remove(w.c.lock)
	}
}

// handler is the mode's, with its long-lived process if it has one.
func (w *watchdog) handler() (http.Handler, *child, error) {
	switch w.c.mode {
	case inproc:
		return http.HandlerFunc(w.inproc), nil, nil
	case static:
		return http.FileServer(http.Dir(w.c.staticPath)), nil, nil
	case upstream:
		child, err := w.startChild()
		if err != nil {
			return nil, nil, err
		}
		return w.proxy(), child, nil
	}
	return http.HandlerFunc(w.fork), nil, nil
}

// inproc calls the handler that is part of this program. Its panic costs one
// answer, not the process.
func (w *watchdog) inproc(rw http.ResponseWriter, r *http.Request) {
	defer func() {
		fault := recover()
		if fault == nil {
			return
		}
		if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(http.ErrAbortHandler)
		}
		w.log.Printf("panic: %v\n%s", fault, debug.Stack())
		if a, ok := rw.(*answer); !ok || a.code != 0 {
			panic(http.ErrAbortHandler)
		}
		rw.Header().Set(headerInternal, fromWatchdog)
		http.Error(rw, "the function panicked; its log says where", http.StatusInternalServerError)
	}()
	w.function.ServeHTTP(rw, r)
}

// serveMetrics serves port 8081. Without it the function still works.
func (w *watchdog) serveMetrics(ctx context.Context) {
	l, err := listen(ctx, w.c.metricsPort)
	if err != nil {
		w.log.Printf("no metrics: %v", err)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = rw.Write(w.metrics.text(w.inflight.Load()))
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, ErrorLog: w.log}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		w.log.Printf("no metrics any more: %v", err)
	}
}
