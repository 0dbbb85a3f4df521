package remote

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// An exec or an attach is one POST, full duplex. Both bodies are frames of a
// channel byte, a length (4 bytes, big endian) and as many bytes. An empty
// frame of stdin is its end; the last frame of the answer is the outcome.
const (
	frameStdin   = 0
	frameStdout  = 1
	frameStderr  = 2
	frameOutcome = 3
	frameResize  = 4 // width and height, 2 bytes each, big endian

	maxFrame = 1 << 20 // bytes
)

// farewell is how long a client has to take the outcome.
const farewell = time.Second

// outcome is how an exec ended: with an exit code or an error.
type outcome struct {
	ExitCode int            `json:"exitCode"`
	Error    *metav1.Status `json:"error,omitempty"`
}

// frames writes frames, each at once. It is safe for concurrent use.
type frames struct {
	mu    sync.Mutex
	w     io.Writer
	flush func() error // nil: the writer needs none
}

func (f *frames) write(channel byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{channel}, uint32(len(p)))
	if _, err := f.w.Write(head); err != nil {
		return err
	}
	if _, err := f.w.Write(p); err != nil {
		return err
	}
	if f.flush == nil {
		return nil
	}
	return f.flush()
}

// channel is a writer of one of the streams.
type channel struct {
	f  *frames
	id byte
}

func (c channel) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, maxFrame)
		if err := c.f.write(c.id, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// Exec implements api.Agent.
func (a *Agent) Exec(ctx context.Context, pod types.UID, o api.ExecOptions) (int, error) {
	q := wanted(o.Container, o.Stdin, o.Stdout, o.Stderr)
	q["command"] = o.Command
	if o.TTY {
		q.Set("tty", "true")
	}
	return a.stream(ctx, pod, "exec", q, o)
}

// Attach implements api.Agent.
func (a *Agent) Attach(ctx context.Context, pod types.UID, o api.AttachOptions) error {
	q := wanted(o.Container, o.Stdin, o.Stdout, o.Stderr)
	_, err := a.stream(ctx, pod, "attach", q, api.ExecOptions{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Resize: o.Resize})
	return err
}

// wanted says which streams there are.
func wanted(container string, stdin io.Reader, stdout, stderr io.Writer) url.Values {
	q := url.Values{"container": {container}}
	for name, has := range map[string]bool{"stdin": stdin != nil, "stdout": stdout != nil, "stderr": stderr != nil} {
		if has {
			q.Set(name, "true")
		}
	}
	return q
}

// stream asks for a process and passes its streams on. A read of o.Stdin that
// is going on at the end is not waited for.
func (a *Agent) stream(ctx context.Context, pod types.UID, verb string, q url.Values, o api.ExecOptions) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, in := io.Pipe()
	// Ends the writers below, and the transport's read, which it waits for when
	// ctx is done before there is an answer.
	context.AfterFunc(ctx, func() { body.Close() })
	f := &frames{w: in}
	if o.Stdin != nil {
		go func() { // ends with stdin or, when that brings something, with the command
			_, err := io.Copy(channel{f, frameStdin}, o.Stdin)
			if err == nil {
				_ = f.write(frameStdin, nil) // the command has ended: nobody is left to tell
			}
		}()
	}
	if o.Resize != nil {
		go resize(ctx, f, o.Resize)
	}
	resp, err := a.c.send(ctx, request{
		method: http.MethodPost, path: podPath(pod, verb), query: q, contentType: "application/octet-stream", body: body,
	})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	out, err := readFrames(resp.Body, o.Stdout, o.Stderr)
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err != nil:
		return 0, err
	case out.Error != nil:
		return 0, &apierrors.StatusError{ErrStatus: *out.Error}
	}
	return out.ExitCode, nil
}

func resize(ctx context.Context, f *frames, sizes <-chan api.TerminalSize) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			b := binary.BigEndian.AppendUint16(nil, s.Width)
			if f.write(frameResize, binary.BigEndian.AppendUint16(b, s.Height)) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// readFrame reads a frame's head.
func readFrame(from io.Reader) (channel byte, n int64, err error) {
	var head [5]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return 0, 0, err
	}
	n = int64(binary.BigEndian.Uint32(head[1:]))
	if n > maxFrame {
		return 0, 0, fmt.Errorf("a frame of %d bytes, at most %d are allowed", n, maxFrame)
	}
	return head[0], n, nil
}

func readFrames(from io.Reader, stdout, stderr io.Writer) (outcome, error) {
	for {
		id, n, err := readFrame(from)
		if err != nil {
			return outcome{}, brokeOff(err)
		}
		to := io.Discard
		switch {
		case id == frameOutcome:
			return readOutcome(io.LimitReader(from, n))
		case id == frameStdout && stdout != nil:
			to = stdout
		case id == frameStderr && stderr != nil:
			to = stderr
		}
		got, err := io.CopyN(to, from, n)
		if err != nil {
			return outcome{}, fmt.Errorf("exec: output: %w", err)
		}
		if got < n {
			return outcome{}, brokeOff(io.ErrUnexpectedEOF)
		}
	}
}

func readOutcome(from io.Reader) (outcome, error) {
	var o outcome
	if err := json.NewDecoder(from).Decode(&o); err != nil {
		return o, fmt.Errorf("exec: decode the outcome: %w", err)
	}
	return o, nil
}

func brokeOff(err error) error {
	return apierrors.NewServiceUnavailable("exec: the connection broke off before the command's end: " + err.Error())
}

// duplex begins an answer whose request is still being read.
func duplex(w http.ResponseWriter, r *http.Request) (*http.ResponseController, error) {
	conn := http.NewResponseController(w)
	// HTTP/2 is full duplex in any case and says that this is not supported.
	if err := conn.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("full duplex: %w", err)
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // the request may go on after the answer
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return conn, nil
}

// serveExec runs a command for a request.
func serveExec(a api.Agent, pod types.UID, w http.ResponseWriter, r *http.Request) {
	serveStreams(w, r, func(ctx context.Context, o api.ExecOptions) (int, error) {
		q := r.URL.Query()
		o.Command, o.TTY = q["command"], q.Get("tty") == "true"
		return a.Exec(ctx, pod, o)
	})
}

// serveAttach attaches a request to a container.
func serveAttach(a api.Agent, pod types.UID, w http.ResponseWriter, r *http.Request) {
	serveStreams(w, r, func(ctx context.Context, o api.ExecOptions) (int, error) {
		return 0, a.Attach(ctx, pod, api.AttachOptions{
			Container: o.Container, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Resize: o.Resize,
		})
	})
}

// serveStreams does what has streams for a request that has them as frames.
func serveStreams(w http.ResponseWriter, r *http.Request, do func(context.Context, api.ExecOptions) (int, error)) {
	conn, err := duplex(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusOK)
	if err := conn.Flush(); err != nil {
		return
	}
	f := &frames{w: w, flush: conn.Flush}
	q := r.URL.Query()
	o := api.ExecOptions{Container: q.Get("container")}
	stdin, typed := io.Pipe()
	sizes := make(chan api.TerminalSize, 1)
	o.Resize = sizes
	if q.Get("stdin") == "true" {
		o.Stdin = stdin
	}
	if q.Get("stdout") == "true" {
		o.Stdout = channel{f, frameStdout}
	}
	if q.Get("stderr") == "true" {
		o.Stderr = channel{f, frameStderr}
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var reader sync.WaitGroup
	reader.Go(func() {
		readInput(r.Body, typed, sizes)
		cancel() // over HTTP/1.1 nothing else says that the client has gone
	})
	defer func() {
		stdin.Close()
		until := time.Unix(1, 0)
		if r.ProtoMajor == 1 {
			// A connection that is closed with something unread in it is reset, and
			// the client may learn of that before it reads the answer. It closes
			// itself when it has the outcome.
			until = time.Now().Add(farewell)
		}
		_ = conn.SetReadDeadline(until) // ends the reader, which closing the body would wait for
		reader.Wait()
	}()
	code, err := do(ctx, o)
	out := outcome{ExitCode: code}
	if err != nil {
		out.Error = statusOf(err)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = f.write(frameOutcome, b) // the client has gone: nobody is left to tell
}

// readInput reads frames of a request until they end or make no sense.
func readInput(from io.Reader, stdin *io.PipeWriter, sizes chan api.TerminalSize) {
	to := &sink{w: stdin}
	for {
		id, n, err := readFrame(from)
		switch {
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF // the end is said by an empty frame
		case err == nil && id == frameStdin && n == 0:
			err = stdin.Close()
		case err == nil && id == frameStdin:
			_, err = io.CopyN(to, from, n)
		case err == nil && id == frameResize && n == 4:
			var size [4]byte
			if _, err = io.ReadFull(from, size[:]); err == nil {
				put(sizes, api.TerminalSize{Width: binary.BigEndian.Uint16(size[:]), Height: binary.BigEndian.Uint16(size[2:])})
			}
		case err == nil:
			_, err = io.CopyN(io.Discard, from, n)
		}
		if err != nil {
			stdin.CloseWithError(err)
			return
		}
	}
}

// put has the newest size in a channel of one place, whether or not somebody
// takes it. It has one caller at a time.
func put(sizes chan api.TerminalSize, s api.TerminalSize) {
	for {
		select {
		case sizes <- s:
			return
		default:
		}
		select {
		case <-sizes:
		default:
		}
	}
}

// sink writes until that fails, and takes the rest all the same: what is typed
// to a command that has closed its input goes nowhere.
type sink struct {
	w      io.Writer
	failed bool
}

func (s *sink) Write(b []byte) (int, error) {
	if !s.failed {
		_, err := s.w.Write(b)
		s.failed = err != nil
	}
	return len(b), nil
}
