package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
)

// forwarded is the client's end of a connection: what is written is the
// request's body, what is read the answer's.
type forwarded struct {
	io.ReadCloser
	to     *io.PipeWriter
	cancel context.CancelFunc
}

func (c *forwarded) Write(b []byte) (int, error) { return c.to.Write(b) }

func (c *forwarded) CloseWrite() error { return c.to.Close() }

// Close ends both directions.
func (c *forwarded) Close() error {
	c.cancel()
	c.to.CloseWithError(io.ErrClosedPipe)
	return c.ReadCloser.Close()
}

// Forward implements api.Agent.
func (a *Agent) Forward(ctx context.Context, pod types.UID, port uint16) (api.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, to := io.Pipe()
	context.AfterFunc(ctx, func() { body.CloseWithError(io.ErrClosedPipe) }) // the transport waits for its read
	resp, err := a.c.send(ctx, request{                                      //nolint:bodyclose // the connection's Close does
		method: http.MethodPost, path: podPath(pod, "forward"), query: url.Values{"port": {strconv.Itoa(int(port))}},
		contentType: "application/octet-stream", body: body,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return &forwarded{resp.Body, to, cancel}, nil
}

// serveForward connects a request to a port of a pod. It ends when the pod's
// side has.
func serveForward(a api.Agent, pod types.UID, w http.ResponseWriter, r *http.Request) {
	answer, err := duplex(w, r) // first: without it an error would wait for the request's end
	if err != nil {
		fail(w, err)
		return
	}
	defer func() { _ = answer.SetReadDeadline(time.Unix(1, 0)) }() // or the server would wait for it now
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil || port == 0 {
		fail(w, apierrors.NewBadRequest(fmt.Sprintf("port: %q is not a number from 1 to 65535", r.URL.Query().Get("port"))))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	conn, err := a.Forward(ctx, pod, uint16(port))
	if err != nil {
		fail(w, err)
		return
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	w.WriteHeader(http.StatusOK)
	_ = answer.Flush() // connected, whoever speaks first
	var sender sync.WaitGroup
	sender.Go(func() {
		if _, err := io.Copy(conn, r.Body); err != nil {
			cancel() // the client has gone, or the pod takes no more
			return
		}
		_ = conn.CloseWrite() // a pod that has gone is seen below
	})
	err = copyOut(w, answer, conn)
	conn.Close()
	_ = answer.SetReadDeadline(time.Unix(1, 0)) // ends the sender, which closing the body would wait for
	sender.Wait()
	if err != nil {
		panic(http.ErrAbortHandler) // so that the client does not take it for a clean end
	}
}

// copyOut hands each read on at once. Nil is the end of what is read.
func copyOut(w io.Writer, answer *http.ResponseController, from io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := answer.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
