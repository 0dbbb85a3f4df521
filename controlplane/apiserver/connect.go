package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/stream"
)

// connections are the kinds of what is asked of a pod that runs.
var connections = map[string]string{"exec": "PodExecOptions", "attach": "PodAttachOptions", "portforward": "PodPortForwardOptions"}

// mountConnections lays out the subresources whose requests become connections.
// WebSockets begin with a GET, SPDY with a POST.
func (s *Server) mountConnections(object string) {
	for sub, f := range map[string]func(*call) error{"exec": s.exec, "attach": s.attach, "portforward": s.portForward} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			s.mux.Method(method, object+"/"+sub, s.sub("connect", api.Pods, sub, f))
		}
	}
}

// exec runs a command in a container.
func (s *Server) exec(c *call) error {
	q := c.r.URL.Query()
	want, err := wants(q)
	if err != nil {
		return err
	}
	command := q["command"]
	if len(command) == 0 {
		return apierrors.NewBadRequest("you must specify at least one command for the container")
	}
	p, agent, err := s.runs(c)
	if err != nil {
		return err
	}
	name, err := container(p, q.Get("container"))
	if err != nil {
		return err
	}
	return stream.Remote(c.w, c.r, want, func(ctx context.Context, st stream.Streams) (int, error) {
		return agent.Exec(ctx, p.UID, api.ExecOptions{
			Container: name, Command: command, TTY: want.TTY,
			Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Resize: st.Resize,
		})
	})
}

// attach attaches to a container's first process.
func (s *Server) attach(c *call) error {
	q := c.r.URL.Query()
	want, err := wants(q)
	if err != nil {
		return err
	}
	p, agent, err := s.runs(c)
	if err != nil {
		return err
	}
	name, err := container(p, q.Get("container"))
	if err != nil {
		return err
	}
	return stream.Remote(c.w, c.r, want, func(ctx context.Context, st stream.Streams) (int, error) {
		return 0, agent.Attach(ctx, p.UID, api.AttachOptions{
			Container: name, Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Resize: st.Resize,
		})
	})
}

// portForward forwards connections to ports of a pod.
func (s *Server) portForward(c *call) error {
	p, agent, err := s.runs(c)
	if err != nil {
		return err
	}
	return stream.Forward(c.w, c.r, func(ctx context.Context, port uint16) (api.Conn, error) {
		return agent.Forward(ctx, p.UID, port)
	})
}

// runs is the pod of a request and the agent that runs it.
func (s *Server) runs(c *call) (*corev1.Pod, api.Agent, error) {
	p, err := api.Get[*corev1.Pod](c.ctx(), s.cfg.Objects, c.resource, c.namespace, c.name)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case p.Spec.NodeName == "":
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", p.Name))
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s has ended: its phase is %s", p.Name, p.Status.Phase))
	case s.cfg.Agents == nil:
		return nil, nil, apierrors.NewServiceUnavailable("this server reaches no node")
	}
	agent, err := s.cfg.Agents(c.ctx(), p.Spec.NodeName)
	return p, agent, err
}

// wants reads which streams are asked for.
func wants(q url.Values) (stream.Wants, error) {
	w := stream.Wants{Stdin: flag(q, "stdin"), Stdout: flag(q, "stdout"), Stderr: flag(q, "stderr"), TTY: flag(q, "tty")}
	if !w.Stdin && !w.Stdout && !w.Stderr {
		return w, apierrors.NewBadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	return w, nil
}
