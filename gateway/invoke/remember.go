package invoke

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/gateway/meter"
	"github.com/podsnap/podsnap/gateway/upstream"
	"github.com/podsnap/podsnap/gateway/wire"
	"github.com/podsnap/podsnap/internal/openfaas"
)

// begun notes that the replica's answer has begun.
func (c *call) begun(ans *upstream.Answer) {
	c.first, c.connected = time.Now(), ans.Connected
	if c.connected.IsZero() {
		c.connected = c.slot.granted
		if c.thawed.After(c.connected) {
			c.connected = c.thawed
		}
	}
	if c.slot.cold {
		cold := c.coldStart()
		c.v.c.Meter.Cold(cold)
	}
}

// coldStart is the typed event of a cold call.
func (c *call) coldStart() meter.ColdStart {
	s := c.slot.start
	return meter.ColdStart{
		Queued: c.slot.granted.Add(-c.slot.waited), Created: s.Created, Placed: s.Placed, Ready: s.Ready,
		Granted: c.slot.granted, Connected: c.connected, FirstByte: c.first,
	}
}

// timing is the Server-Timing of a cold call, and of one that met a frozen
// replica: the stages, in milliseconds.
func (c *call) timing() wire.Field {
	var b []byte
	add := func(stage string, d time.Duration) {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(append(b, stage...), ";dur="...)
		b = strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'f', 3, 64)
	}
	if c.slot.cold {
		cold := c.coldStart()
		for stage, d := range cold.Stages() {
			add(stage, d)
		}
	}
	if c.thawing > 0 {
		add(meter.StageThaw, c.thawing)
	}
	return wire.Field{Name: []byte("Server-Timing"), Value: b}
}

// done is the end of the call: it is counted, and remembered if somebody may
// ask about it. err is why it failed, for the gateway's part.
func (c *call) done(status int, err error) {
	now := time.Now()
	took := now.Sub(c.began)
	c.f.meter.Done(status, took)
	if c.v.c.Remember == nil {
		return
	}
	var kept []string
	if c.slot.cold {
		kept = append(kept, openfaas.CallCold)
	}
	if c.thawing > 0 {
		kept = append(kept, openfaas.CallThawed)
	}
	if took >= c.v.c.Slow {
		kept = append(kept, openfaas.CallSlow)
	}
	if status >= http.StatusInternalServerError || status == statusClientGone || status == http.StatusTooManyRequests {
		kept = append(kept, openfaas.CallFailed)
	}
	if kept == nil {
		return
	}
	k := c.remembered(status, err)
	k.Kept, k.Seconds = kept, took.Seconds()
	c.v.c.Remember(k)
	c.v.c.Log.LogAttrs(context.Background(), slog.LevelDebug, "call", //nolint:forbidigo // its own context may be over
		slog.String("call_id", k.ID), slog.String("function", c.f.String()), slog.Int("status", status),
		slog.Any("kept", kept), slog.Any("stages", k.Stages), slog.Duration("took", took), slog.String("text", k.Text))
}

func (c *call) remembered(status int, err error) openfaas.Call {
	k := openfaas.Call{
		ID: string(c.id), Name: c.f.key.Name, Namespace: c.f.key.Namespace, Method: string(c.q.Method), Time: c.began,
		Status: status, Ahead: c.slot.ahead, Retries: c.retries, Stages: []openfaas.CallStage{},
	}
	if err != nil {
		k.Text = err.Error()
		if r, ok := errors.AsType[*refusal](err); ok {
			k.Reason = r.reason
		}
	}
	at := func(name string, t time.Time) {
		if !t.IsZero() {
			k.Stages = append(k.Stages, openfaas.CallStage{Name: name, At: t.Sub(c.began).Seconds()})
		}
	}
	if !c.queued.IsZero() {
		at(openfaas.StageQueued, c.queued)
	}
	if cold := c.coldStart(); c.slot.cold && cold.Explained() {
		at(openfaas.StageCreated, cold.Created)
		at(openfaas.StagePlaced, cold.Placed)
		at(openfaas.StageReady, cold.Ready)
	}
	if c.slot.e != nil {
		k.Replica, k.Address = c.slot.e.Name, c.slot.e.Address
		at(openfaas.StageGranted, c.slot.granted)
		at(openfaas.StageThawed, c.thawed)
	}
	if !c.first.IsZero() {
		if c.connected.After(c.slot.granted) && c.connected.After(c.thawed) {
			at(openfaas.StageConnected, c.connected)
		}
		at(openfaas.StageFirstByte, c.first)
	}
	return k
}
