package invoke

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// switchProtocols joins the client's connection with the replica's until one
// side ends or the gateway stops. The function's time limit does not apply: a
// WebSocket is meant to stay.
func (c *call) switchProtocols(resp *http.Response, timer *time.Timer) error {
	far, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !c.upgrade {
		resp.Body.Close()
		return badAnswer(c.f.key, c.slot.e, errors.New("it switched protocols unasked"))
	}
	defer far.Close()
	timer.Stop()
	near, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return unavailable(c.f.key, "this connection can't be upgraded: "+err.Error())
	}
	defer near.Close()
	c.status = resp.StatusCode
	h := c.w.Header()
	answerHeader(h, resp.Header)
	c.duration()
	h.Del("Content-Type")
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, resp.Header["Upgrade"]
	resp.Header, resp.Body = h, nil
	if err := resp.Write(buffered); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	c.v.join(&joint{near: near, far: far}, buffered)
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
