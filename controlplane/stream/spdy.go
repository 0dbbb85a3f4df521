package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/podsnap/podsnap/api"
)

// accept negotiates a protocol and upgrades the request. The handler is called
// for each stream that the client opens, one at a time; below is what carries
// them.
func accept(w http.ResponseWriter, r *http.Request, spoken string, handler httpstream.NewStreamHandler) (conn httpstream.Connection, below net.Conn, err error) {
	refused := &refusal{header: http.Header{}}
	if _, err := httpstream.Handshake(r, refused, []string{spoken}); err != nil {
		return nil, nil, notSpoken(r.Header.Values(httpstream.HeaderProtocolVersion), spoken)
	}
	maps.Copy(w.Header(), refused.header)
	h := &hijackable{ResponseWriter: w}
	conn = spdy.NewResponseUpgrader().UpgradeResponse(h, r, handler)
	if conn == nil {
		panic(http.ErrAbortHandler) // what could not be done it has said itself
	}
	conn.SetIdleTimeout(Idle)
	return conn, h.conn, nil
}

// refusal takes an answer that is made anew as a Status.
type refusal struct{ header http.Header }

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) Write(p []byte) (int, error) { return len(p), nil }
func (r *refusal) WriteHeader(int)             {}

// kinds are the streams that a client has to open.
func (w Wants) kinds() []string {
	out := []string{corev1.StreamTypeError}
	for kind, wanted := range map[string]bool{
		corev1.StreamTypeStdin: w.Stdin, corev1.StreamTypeStdout: w.Stdout, corev1.StreamTypeStderr: w.Stderr, corev1.StreamTypeResize: w.TTY,
	} {
		if wanted {
			out = append(out, kind)
		}
	}
	return out
}

// opening collects the streams of a command.
type opening struct {
	mu      sync.Mutex
	missing map[string]bool
	streams map[string]httpstream.Stream
	replied sync.WaitGroup
	all     chan struct{} // closed when none is missing
}

// add is a httpstream.NewStreamHandler.
func (o *opening) add(s httpstream.Stream, replySent <-chan struct{}) error {
	kind := s.Headers().Get(corev1.StreamType)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.missing[kind] {
		return fmt.Errorf("stream of type %q was not asked for, or is there", kind)
	}
	delete(o.missing, kind)
	o.streams[kind] = s
	o.replied.Go(func() { <-replySent }) // sent as soon as this returns
	if len(o.missing) == 0 {
		close(o.all)
	}
	return nil
}

func overSPDY(w http.ResponseWriter, r *http.Request, want Wants, run Run) error {
	o := &opening{missing: map[string]bool{}, streams: map[string]httpstream.Stream{}, all: make(chan struct{})}
	for _, k := range want.kinds() {
		o.missing[k] = true
	}
	conn, below, err := accept(w, r, remotecommand.StreamProtocolV4Name, o.add)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	t := time.NewTimer(creation)
	defer t.Stop()
	select {
	case <-o.all:
		o.replied.Wait()
	case <-t.C:
		return nil // the connection is all that there is to tell it by
	case <-conn.CloseChan():
		return nil
	case <-ctx.Done():
		return nil
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer conn.Close() // ends what reads it
	work.Go(func() { watch(ctx, below, cancel) })
	work.Go(func() {
		select {
		case <-conn.CloseChan():
			cancel()
		case <-ctx.Done():
		}
	})
	// A client that neither reads nor goes must not hold up the server's end.
	defer context.AfterFunc(r.Context(), func() { conn.Close() })()
	code, err := run(ctx, o.open(&work))
	o.finish(conn, code, err)
	cancel()
	return nil
}

// open answers with the streams that there are.
func (o *opening) open(work *sync.WaitGroup) Streams {
	var out Streams
	if s := o.streams[corev1.StreamTypeStdin]; s != nil {
		out.Stdin = s
	}
	if s := o.streams[corev1.StreamTypeStdout]; s != nil {
		out.Stdout = s
	}
	if s := o.streams[corev1.StreamTypeStderr]; s != nil {
		out.Stderr = s
	}
	if s := o.streams[corev1.StreamTypeResize]; s != nil {
		sizes := make(chan api.TerminalSize, 1)
		out.Resize = sizes
		work.Go(func() {
			d := json.NewDecoder(s)
			for {
				var to size
				if d.Decode(&to) != nil {
					return
				}
				put(sizes, to)
			}
		})
	}
	return out
}

// finish says how the command ended, after all output, and gives the client time
// to take it.
func (o *opening) finish(conn httpstream.Connection, code int, err error) {
	for _, kind := range []string{corev1.StreamTypeStdout, corev1.StreamTypeStderr} {
		if s := o.streams[kind]; s != nil {
			_ = s.Close() // the client has gone
		}
	}
	e := o.streams[corev1.StreamTypeError]
	if json.NewEncoder(e).Encode(statusOf(code, err)) != nil || e.Close() != nil {
		return
	}
	if s := o.streams[corev1.StreamTypeStdin]; s != nil {
		go func() { _, _ = io.Copy(io.Discard, s) }() // ends with the connection: what is under way must not hold up the end
	}
	t := time.NewTimer(farewell)
	defer t.Stop()
	select {
	case <-conn.CloseChan():
	case <-t.C:
	}
}
