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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// An exec is one POST, full duplex: the request's body is stdin, the answer's
// body is frames of a channel byte, a length (4 bytes, big endian) and as many
// bytes. The last frame is the outcome.
const (
	frameStdout  = 1
	frameStderr  = 2
	frameOutcome = 3

	maxFrame = 1 << 20 // bytes
)

// outcome is how an exec ended: with an exit code or an error.
type outcome struct {
	ExitCode int            `json:"exitCode"`
	Error    *metav1.Status `json:"error,omitempty"`
}

// frames writes frames, each at once. It is safe for concurrent use.
type frames struct {
	mu   sync.Mutex
	w    io.Writer
	conn *http.ResponseController
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
	return f.conn.Flush()
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

// Exec implements api.Agent. A read of o.Stdin that is going on when the
// command ends is not waited for.
func (a *Agent) Exec(ctx context.Context, pod types.UID, o api.ExecOptions) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := request{
		method: http.MethodPost, path: podPath(pod, "exec"),
		query:       url.Values{"container": {o.Container}, "command": o.Command},
		contentType: "application/octet-stream", body: http.NoBody,
	}
	if o.Stdin != nil {
		r.body = io.NopCloser(o.Stdin) // the transport must not close what is not its own
	}
	resp, err := a.c.send(ctx, r)
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

func readFrames(from io.Reader, stdout, stderr io.Writer) (outcome, error) {
	var head [5]byte
	for {
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return outcome{}, brokeOff(err)
		}
		n := int64(binary.BigEndian.Uint32(head[1:]))
		if n > maxFrame {
			return outcome{}, fmt.Errorf("exec: a frame of %d bytes, at most %d are allowed", n, maxFrame)
		}
		to := io.Discard
		switch {
		case head[0] == frameOutcome:
			return readOutcome(io.LimitReader(from, n))
		case head[0] == frameStdout && stdout != nil:
			to = stdout
		case head[0] == frameStderr && stderr != nil:
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

// serveExec runs a command for a request.
func serveExec(a api.Agent, pod types.UID, w http.ResponseWriter, r *http.Request) {
	conn := http.NewResponseController(w)
	// HTTP/2 is full duplex in any case and says that this is not supported.
	if err := conn.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		fail(w, fmt.Errorf("exec: %w", err))
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // stdin may go on after the command
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if err := conn.Flush(); err != nil {
		return
	}
	q := r.URL.Query()
	f := &frames{w: w, conn: conn}
	var out outcome
	code, err := a.Exec(r.Context(), pod, api.ExecOptions{
		Container: q.Get("container"), Command: q["command"],
		Stdin: r.Body, Stdout: channel{f, frameStdout}, Stderr: channel{f, frameStderr},
	})
	out.ExitCode = code
	if err != nil {
		out.Error = statusOf(err)
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = f.write(frameOutcome, b) // the client has gone: nobody is left to tell
}
