package invoke

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/podsnap/podsnap/gateway/upstream"
	"github.com/podsnap/podsnap/gateway/wire"
)

// hijacker is an Asker whose connection can be had. in reads from it, what the
// client sent already first.
type hijacker interface {
	Hijack() (c net.Conn, in *bufio.Reader, err error)
}

var _ hijacker = (*standard)(nil)

// Hijack implements hijacker.
func (s *standard) Hijack() (net.Conn, *bufio.Reader, error) {
	c, rw, err := http.NewResponseController(s.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return c, rw.Reader, nil
}

// switchProtocols joins the client's connection with the replica's until one
// side ends or the gateway stops. The function's time limit does not apply: a
// WebSocket is meant to stay.
func (c *call) switchProtocols(ans *upstream.Answer) error {
	h, ok := c.a.(hijacker)
	if !ok {
		ans.End()
		return unavailable(c.f.key, "this connection can't be upgraded")
	}
	b := append(strconv.AppendInt([]byte("HTTP/1.1 "), int64(ans.Status), 10), " Switching Protocols\r\n"...)
	upgrade := wire.Get(ans.Fields, "Upgrade")
	for _, f := range c.answered(c.own(c.fields[:0]), ans.Fields, false) {
		b = wire.AppendField(b, f.Name, f.Value)
	}
	b = wire.AppendField(b, names.connection, names.upgrade)
	b = append(wire.AppendField(b, names.upgrade, upgrade), "\r\n"...)
	far, err := ans.Switch()
	if err != nil {
		return err
	}
	defer far.Close()
	near, in, err := h.Hijack()
	if err != nil {
		return unavailable(c.f.key, "this connection can't be upgraded: "+err.Error())
	}
	defer near.Close()
	c.status = ans.Status
	_ = near.SetDeadline(time.Time{})
	if _, err := near.Write(b); err != nil {
		return errGone
	}
	c.v.join(&joint{near: near, far: far}, in)
	return nil
}

// joint is two connections that are one.
type joint struct{ near, far io.ReadWriteCloser }

func (j *joint) close() {
	j.near.Close()
	j.far.Close()
}

// join copies both ways until one side ends. in is what reads from j.near.
func (v *Invoker) join(j *joint, in io.Reader) {
	v.joined.Lock()
	v.upgraded[j] = struct{}{}
	v.joined.Unlock()
	if v.draining.Load() {
		j.close() // endUpgraded may have missed it
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(j.far, in)
		j.close()
	})
	_, _ = io.Copy(j.near, j.far)
	j.close()
	wg.Wait()
	v.joined.Lock()
	delete(v.upgraded, j)
	v.joined.Unlock()
}

// endUpgraded closes the connections that no time limit ends.
func (v *Invoker) endUpgraded() {
	v.draining.Store(true)
	v.joined.Lock()
	defer v.joined.Unlock()
	for j := range v.upgraded {
		j.close()
	}
}
