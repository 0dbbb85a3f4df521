// Package probe asks containers whether they have started, are alive and are
// ready: by HTTP, by a TCP connection, by gRPC or by a command.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const maxBody = 10 << 10 // of an HTTP answer or a command's output, bytes

// Prober runs single checks. The zero value dials the network.
type Prober struct {
	// Dial opens connections; nil is the network's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Target is the container that is asked.
type Target struct {
	IP    string           // of the pod
	Ports map[string]int32 // the container's named ports
	// Exec runs a command in it and answers with its exit code and the start
	// of its output.
	Exec func(ctx context.Context, command []string) (code int, output string, err error)
	// Listening returns nil as soon as something in it listens on a port; nil,
	// or another error than ctx's, is that nobody can tell.
	Listening func(ctx context.Context, port int32) error
}

// Check asks once, at most for the probe's time-out. nil is a yes.
func (p *Prober) Check(ctx context.Context, spec *corev1.Probe, t Target) error {
	timeout := seconds(spec.TimeoutSeconds, 1)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	var err error
	switch {
	case spec.HTTPGet != nil:
		err = p.http(ctx, spec.HTTPGet, t)
	case spec.TCPSocket != nil:
		err = p.tcp(ctx, spec.TCPSocket, t)
	case spec.Exec != nil:
		err = command(ctx, spec.Exec, t)
	case spec.GRPC != nil:
		err = p.grpc(ctx, spec.GRPC, t)
	default:
		return errors.New("the probe has no httpGet, tcpSocket, exec or grpc")
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (p *Prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if p.Dial != nil {
		return p.Dial(ctx, network, address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (p *Prober) tcp(ctx context.Context, a *corev1.TCPSocketAction, t Target) error {
	port, err := t.port(a.Port)
	if err != nil {
		return err
	}
	conn, err := p.dial(ctx, "tcp", net.JoinHostPort(t.host(a.Host), port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// http counts 200 to 399 as a yes. A redirect is followed on the same host
// only; one to another host is taken as the answer.
func (p *Prober) http(ctx context.Context, a *corev1.HTTPGetAction, t Target) error {
	port, err := t.port(a.Port)
	if err != nil {
		return err
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		return fmt.Errorf("path %q: %w", a.Path, err)
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(t.host(a.Host), port)
	if a.Scheme != "" {
		u.Scheme = strings.ToLower(string(a.Scheme))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "podsnap-probe")
	for _, h := range a.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	transport := &http.Transport{
		DialContext: p.dial, DisableKeepAlives: true, DisableCompression: true,
		// A pod's certificate is nobody's proof here: the address is the proof.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	c := http.Client{Transport: transport, CheckRedirect: sameHost}
	resp, err := c.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe answered %d: %s", resp.StatusCode, firstLine(body))
	}
	return nil
}

func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Host != via[0].URL.Host || len(via) >= 10 {
		return http.ErrUseLastResponse
	}
	return nil
}

func command(ctx context.Context, a *corev1.ExecAction, t Target) error {
	code, out, err := t.Exec(ctx, a.Command)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("command ended with %d: %s", code, firstLine([]byte(out)))
	}
	return nil
}

// host is where to connect: the pod itself, unless the probe names a host.
func (t Target) host(named string) string {
	if named != "" {
		return named
	}
	return t.IP
}

func (t Target) port(p intstr.IntOrString) (string, error) {
	n := p.IntVal
	if p.Type == intstr.String {
		var ok bool
		if n, ok = t.Ports[p.StrVal]; !ok {
			v, err := strconv.Atoi(p.StrVal)
			if err != nil {
				return "", fmt.Errorf("the container has no port named %q", p.StrVal)
			}
			n = int32(v)
		}
	}
	if n < 1 || n > 65535 {
		return "", fmt.Errorf("port %d is not within 1 to 65535", n)
	}
	return strconv.Itoa(int(n)), nil
}

func firstLine(b []byte) string {
	s, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

func seconds(n, otherwise int32) time.Duration {
	if n <= 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}
