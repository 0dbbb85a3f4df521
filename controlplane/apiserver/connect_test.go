package apiserver

import (
	"bytes"
	"context"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/podsnap/podsnap/api"
)

// commands is an agent that runs commands and nothing else.
type commands struct {
	api.Agent
	asked chan api.ExecOptions
}

func (c commands) Exec(ctx context.Context, _ types.UID, o api.ExecOptions) (int, error) {
	c.asked <- o
	if o.Command[0] == "wait" {
		_, _ = io.WriteString(o.Stdout, "begun")
		<-ctx.Done()
		return 0, ctx.Err()
	}
	_, err := io.Copy(o.Stdout, o.Stdin)
	return 0, err
}

// A command goes from a client with a token, through every layer of the server,
// to the agent of the pod's node; and of the streams that a server has room for
// it is one.
func TestExecThroughTheServer(t *testing.T) {
	o := filled(t)
	if _, err := api.Mutate(t.Context(), o, api.Pods, "d", "two", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		p.Spec.NodeName = "n1"
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	agent := commands{asked: make(chan api.ExecOptions, 1)}
	srv := httptest.NewServer(server(t, Config{Objects: o, Token: "secret", MaxStreams: 1, Agents: func(_ context.Context, node string) (api.Agent, error) {
		if node != "n1" {
			return nil, apierrors.NewServiceUnavailable(node)
		}
		return agent, nil
	}}))
	t.Cleanup(srv.Close)
	exec := func(ctx context.Context, token string, stdin io.Reader, stdout io.Writer, command ...string) error {
		q := url.Values{"command": command, "container": {"b"}, "stdin": {"true"}, "stdout": {"true"}}
		e, err := remotecommand.NewWebSocketExecutor(&rest.Config{Host: srv.URL, BearerToken: token}, "GET", srv.URL+"/api/v1/namespaces/d/pods/two/exec?"+q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := exec(ctx, "secret", strings.NewReader("typed"), &out, "cat", "a b")
	if err != nil || out.String() != "typed" {
		t.Errorf("got %q, %v", out.String(), err)
	}
	if got := <-agent.asked; got.Container != "b" || len(got.Command) != 2 || got.Command[1] != "a b" || got.TTY || got.Stderr != nil {
		t.Errorf("the agent was asked for %+v", got)
	}
	if err := exec(ctx, "guessed", strings.NewReader(""), io.Discard, "cat"); err == nil || !strings.Contains(err.Error(), "Unauthorized") {
		t.Errorf("with another token: %v", err)
	}

	waiting, stop := context.WithCancel(ctx)
	typed, in := io.Pipe()
	defer in.Close()
	said, stdout := io.Pipe()
	defer said.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for { // the place of the command before may not be free yet
			if err := exec(waiting, "secret", typed, stdout, "wait"); err == nil || !strings.Contains(err.Error(), "too many requests") {
				return
			}
		}
	}()
	<-agent.asked
	// A client that is told to stop before it reads leaves its goroutines behind.
	if _, err := io.ReadFull(said, make([]byte, len("begun"))); err != nil {
		t.Fatal(err)
	}
	if err := exec(ctx, "secret", strings.NewReader(""), io.Discard, "cat"); err == nil || !strings.Contains(err.Error(), "too many requests") {
		t.Errorf("one more than there is room for: %v", err)
	}
	stop()
	<-ended
}
