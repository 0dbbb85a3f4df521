package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// heldBack is how much output of a process waits for its exit status.
const heldBack = 1 << 20

// fork answers a request with the output of one process.
func (w *watchdog) fork(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	buffered := w.c.mode != streaming
	if buffered {
		w.log.Print("Forking fprocess.")
	}
	out := &output{rw: rw, flush: http.NewResponseController(rw), hold: buffered}
	w.setContentType(rw, r)
	err := w.process(rw, r, out)
	w.finish(rw, r, out, err)
	if buffered && err == nil {
		w.log.Printf("Wrote %d Bytes - Duration: %fs", out.n, time.Since(start).Seconds())
	}
	if w.c.debug && len(out.held) > 0 {
		w.log.Printf("Output: %s", out.held)
	}
}

// setContentType: the function's own, or in classic mode the request's.
func (w *watchdog) setContentType(rw http.ResponseWriter, r *http.Request) {
	t := w.c.contentType
	if t == "" && w.c.mode == classic {
		t = r.Header.Get("Content-Type")
	}
	if t != "" {
		rw.Header().Set("Content-Type", t)
	}
}

// process runs fprocess with the request on its stdin and waits for its end.
// What it leaves behind in its process group is killed.
func (w *watchdog) process(rw http.ResponseWriter, r *http.Request, out io.Writer) error {
	cmd := exec.Command(w.c.process[0], w.c.process[1:]...) //nolint:noctx // its group is killed with the context, below
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = w.environment(r)
	p, err := w.connect(cmd)
	if err != nil {
		return err
	}
	defer p.close()
	err = w.children.start(cmd)
	p.closeChild()
	if err != nil {
		return fmt.Errorf("start fprocess: %w", err)
	}
	late := context.AfterFunc(r.Context(), func() {
		w.children.kill(cmd)
		// A process that left its group may still hold the pipe.
		_ = p.stdout.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	})
	defer late()
	var wait sync.WaitGroup
	defer wait.Wait()
	sent := make(chan struct{})
	wait.Go(func() {
		_, _ = io.Copy(p.stdin, r.Body)
		close(sent) // first: the process may end as soon as it sees the end of its input
		_ = p.stdin.Close()
	})
	if p.stderr != nil {
		wait.Go(func() { w.copyLog(p.stderr, "stderr") })
	}
	ended := make(chan error, 1)
	wait.Go(func() {
		w.children.await(cmd)
		ended <- w.children.wait(cmd)
	})
	_, copyErr := io.Copy(out, p.stdout)
	if copyErr != nil { // nobody reads: it must not write for ever
		w.children.kill(cmd)
	}
	err = <-ended
	select {
	case <-sent:
	default:
		stopInput(rw, r, p)
	}
	if err == nil && copyErr != nil && !errors.Is(copyErr, os.ErrDeadlineExceeded) {
		return copyErr
	}
	return err
}

// stopInput ends the sending of a body that a process did not wait for.
func stopInput(rw http.ResponseWriter, r *http.Request, p *pipes) {
	_ = p.stdin.SetWriteDeadline(time.Now()) // what left the process' group may hold it open, unread
	b, ok := r.Body.(*timedBody)
	if !ok || b.ended.Load() {
		return // nothing more comes from the client
	}
	// From the body's end on, the server itself reads, to learn that the client
	// goes away. The deadline may hit that reading if the body ends just now;
	// the server then takes the connection for lost and cancels whatever comes
	// next on it. So nothing may come.
	rw.Header().Set("Connection", "close")
	_ = http.NewResponseController(rw).SetReadDeadline(time.Now())
}

// finish answers with the status that a process's end means.
func (w *watchdog) finish(rw http.ResponseWriter, r *http.Request, out *output, err error) {
	late := errors.Is(context.Cause(r.Context()), context.DeadlineExceeded)
	switch {
	case err == nil:
		out.commit(http.StatusOK)
		return
	case late:
		w.log.Printf("Killed process: it took longer than exec_timeout")
	default:
		w.log.Printf("fprocess failed: %v", err)
	}
	if out.committed {
		panic(http.ErrAbortHandler) // the status is out: the client must not take this for a whole answer
	}
	out.held = w.faultBody(late, err, out.held)
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch {
	case late && w.c.mode == classic:
		out.commit(http.StatusRequestTimeout)
	case late:
		rw.Header().Set(headerInternal, fromWatchdog)
		out.commit(http.StatusGatewayTimeout)
	default:
		out.commit(http.StatusInternalServerError)
	}
}

func (w *watchdog) faultBody(late bool, err error, held []byte) []byte {
	if late {
		return []byte("Killed process.\n")
	}
	return append([]byte(err.Error()+"\n"), held...)
}

// environment is the watchdog's, and the request's as CGI has it.
func (w *watchdog) environment(r *http.Request) []string {
	env := os.Environ()
	if !w.c.cgiHeaders {
		return env
	}
	for k, v := range r.Header {
		env = append(env, "Http_"+strings.ReplaceAll(k, "-", "_")+"="+v[0])
	}
	env = append(env, "Http_Method="+r.Method, "Http_Path="+r.URL.Path, "Http_Host="+r.Host)
	if r.URL.RawQuery != "" {
		env = append(env, "Http_Query="+r.URL.RawQuery)
	}
	if r.ContentLength >= 0 {
		n := strconv.FormatInt(r.ContentLength, 10)
		env = append(env, "Http_ContentLength="+n, "Http_Content_Length="+n)
	}
	return env
}

// pipes join a process to the watchdog.
type pipes struct {
	stdin, stdout, stderr *os.File // the watchdog's ends; stderr may be nil
	child                 []*os.File
}

func (w *watchdog) connect(cmd *exec.Cmd) (*pipes, error) {
	p := &pipes{}
	in, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.stdin, p.child = stdin, []*os.File{in}
	stdout, out, err := os.Pipe()
	if err != nil {
		p.close()
		return nil, err
	}
	p.stdout, p.child = stdout, append(p.child, out)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	if w.c.mode != classic || !w.c.combine {
		stderr, errs, err := os.Pipe()
		if err != nil {
			p.close()
			return nil, err
		}
		cmd.Stderr, p.stderr, p.child = errs, stderr, append(p.child, errs)
	}
	return p, nil
}

func (p *pipes) closeChild() {
	for _, f := range p.child {
		_ = f.Close()
	}
	p.child = nil
}

func (p *pipes) close() {
	p.closeChild()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// output holds the start of an answer back until it is known to be one.
type output struct {
	rw        http.ResponseWriter
	flush     *http.ResponseController
	hold      bool
	held      []byte
	committed bool
	n         int64
}

func (o *output) Write(p []byte) (int, error) {
	if o.hold && len(o.held)+len(p) <= heldBack {
		o.held = append(o.held, p...)
		return len(p), nil
	}
	o.hold = false
	if err := o.commit(http.StatusOK); err != nil {
		return 0, err
	}
	n, err := o.rw.Write(p)
	o.n += int64(n)
	if err == nil {
		err = o.flush.Flush()
	}
	return n, err
}

// commit sends the status and what was held back.
func (o *output) commit(code int) error {
	if o.committed {
		return nil
	}
	o.committed = true
	if o.hold { // then this is all
		o.rw.Header().Set("Content-Length", strconv.Itoa(len(o.held)))
	}
	o.rw.WriteHeader(code)
	n, err := o.rw.Write(o.held)
	o.n += int64(n)
	return err
}
