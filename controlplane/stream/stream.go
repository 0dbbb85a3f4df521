// Package stream speaks what kubectl speaks for exec, attach and port-forward:
// streams over WebSocket (v5.channel.k8s.io and v4) and over SPDY/3.1, and for
// port-forward SPDY in a WebSocket. It knows the wire and nothing else; what the
// streams are of is its caller's affair.
package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/podsnap/podsnap/api"
)

// Timeouts, as the kubelet has them.
const (
	// Idle is how long a connection may carry nothing.
	Idle = 4 * time.Hour
	// creation is how long a client has to open the streams that it has announced.
	creation = 30 * time.Second
	// farewell is how long a client has to take the end.
	farewell = 5 * time.Second
)

// Wants are the streams that a client has asked for.
type Wants struct{ Stdin, Stdout, Stderr, TTY bool }

// Streams are a process's standard streams at the client. One that was not asked
// for is nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan api.TerminalSize // of its terminal, the newest size only; nil without one
}

// Run does what the streams are for and answers with the exit code. ctx is done
// when the client goes.
type Run func(ctx context.Context, s Streams) (exitCode int, err error)

// Remote upgrades a request for a command and runs it. Only a request that
// cannot be upgraded is answered with an error, nothing being written then; the
// error of run is told over the streams.
func Remote(w http.ResponseWriter, r *http.Request, want Wants, run Run) error {
	if want.TTY {
		want.Stderr = false // a terminal has one output
	}
	switch {
	case websocket.IsWebSocketUpgrade(r):
		return overWebSocket(w, r, want, run)
	case isSPDY(r):
		return overSPDY(w, r, want, run)
	}
	return noUpgrade()
}

func isSPDY(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), spdy.HeaderSpdy31)
}

func noUpgrade() error {
	return apierrors.NewBadRequest("Upgrade request required: the request has to be upgraded to websocket or " + spdy.HeaderSpdy31)
}

// notSpoken is the answer to a client none of whose protocols is known.
func notSpoken(offered []string, spoken ...string) error {
	return apierrors.NewForbidden(api.Pods.GR(), "", fmt.Errorf("unable to negotiate protocol: client supports %v, server accepts %v", offered, spoken))
}

// statusOf is how a command ended, for the error stream.
func statusOf(code int, err error) *metav1.Status {
	var known apierrors.APIStatus
	switch {
	case errors.As(err, &known):
		st := known.Status()
		return &st
	case err != nil:
		st := apierrors.NewInternalError(err).Status()
		return &st
	case code != 0:
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: exit status %d", code),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(code)}}},
		}
	}
	return &metav1.Status{Status: metav1.StatusSuccess}
}

// size is a terminal's on the wire.
type size struct{ Width, Height uint16 }

// put has the newest size in a channel of one place, whether or not somebody
// takes it. It has one caller at a time.
func put(sizes chan api.TerminalSize, s size) {
	for {
		select {
		case sizes <- api.TerminalSize(s):
			return
		default:
		}
		select {
		case <-sizes:
		default:
		}
	}
}

// hijackable finds the connection behind wrapped writers, and remembers it.
type hijackable struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, b, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, b, err
}
