package fleet

import (
	"context"
	"log/slog"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/autoscale"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// absence is how long nothing is frozen because a gateway that was connected
	// is not: it may send to replicas without knowing.
	absence = time.Minute
	// refreeze is the pause after a replica that could not be frozen.
	refreeze = 5 * time.Second
	// freezeLimit is how long the agent may take.
	freezeLimit = 10 * time.Second
)

// frost is how far the freezing of a pod has come. The number of its round is
// in the endpoint that gateways are told.
type frost struct {
	asked   time.Time // when the round began; zero: there is to be another one
	pending bool      // the agent was not asked yet
	unable  bool      // its runtime can't
	still   bool      // its condition says that it is frozen
	leaves  map[string]uint64
}

// nextRound begins a round for a pod. It is larger than every round before, of
// earlier fleets too; f.mu is held.
func (f *Fleet) nextRound(pod types.UID) uint64 {
	f.round = max(f.round+1, uint64(time.Now().UnixNano())) //nolint:gosec // after 1970
	f.rounds[pod] = f.round
	return f.round
}

// rest begins a round for each replica of an idle function that was not asked
// since the last request.
func (f *Fleet) rest(k types.NamespacedName, dec autoscale.Decision, now autoscale.Now) {
	if f.c.Agents == nil || dec.Record.Idle.Tier != string(autoscale.TierFrozen) || now.Settling {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fn := f.functions[k]
	if fn == nil {
		return
	}
	used := now.Time.Add(-fn.window.Idle(now.Time))
	for uid, s := range fn.endpoints {
		if s.draining || s.frost.unable || !s.frost.asked.IsZero() && !s.frost.asked.Before(used) {
			continue
		}
		s.endpoint.Frozen = f.nextRound(uid)
		s.frost = &frost{asked: now.Time, pending: true, still: s.frost.still, leaves: map[string]uint64{}}
		fn.endpoints[uid] = s
		f.asked[uid] = k
		f.tell(api.EndpointEvent{Type: api.EndpointReady, Function: k, Endpoint: s.endpoint})
		f.freezes.Add(podKey{types.NamespacedName{Namespace: k.Namespace, Name: s.endpoint.Name}, uid})
	}
}

// carry takes over what a pod's object does not tell. A pod that was frozen
// before this process, or of which it is not known in which round, is told as
// one of a new round; f.mu is held.
func (f *Fleet) carry(s *state, before state, p *corev1.Pod) {
	s.frost, s.endpoint.Frozen = before.frost, f.rounds[p.UID] // it may have been unready meanwhile
	if s.frost == nil {
		s.frost = &frost{}
	}
	still := api.IsFrozen(&p.Status)
	switch {
	case still && s.endpoint.Frozen == 0:
		s.endpoint.Frozen = f.nextRound(p.UID)
		s.frost = &frost{asked: time.Now()}
	case !still && s.frost.still:
		// By a call, which will be reported, or by something that no gateway
		// knows of, such as a command in the pod: then it is to be frozen again.
		f.freezes.AddAfter(podKey{types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, p.UID}, refreeze)
	}
	s.frost.still = still
}

// GiveLeave implements api.Capacity.
func (f *Fleet) GiveLeave(_ context.Context, gateway string, leaves []api.Leave) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range leaves {
		k, ok := f.asked[l.Pod]
		if s, served := f.functions[k].served(l.Pod); ok && served && s.frost.pending && s.endpoint.Frozen == l.Round {
			s.frost.leaves[gateway] = l.Round
			f.freezes.Add(podKey{types.NamespacedName{Namespace: k.Namespace, Name: s.endpoint.Name}, l.Pod})
		}
	}
	return nil
}

// reconcileFreeze asks the agent to freeze a pod when every gateway has given
// leave.
func (f *Fleet) reconcileFreeze(ctx context.Context, k podKey) (time.Duration, error) {
	p, ok := f.pods.Get(k.Namespace, k.Name)
	if !ok || p.UID != k.UID {
		return 0, nil
	}
	round, wait := f.mayFreeze(p)
	if round == 0 {
		return wait, nil
	}
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	a, err := f.c.Agents(ctx, p.Spec.NodeName)
	if err == nil {
		err = a.SetFrozen(ctx, p.UID, round, true)
	}
	if err == nil || apierrors.IsNotFound(err) {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, served := f.functions[functionOf(p)].served(p.UID)
	switch {
	case !served || s.endpoint.Frozen != round:
		return 0, nil
	case apierrors.IsMethodNotSupported(err):
		s.frost.unable = true
		return 0, nil
	case !apierrors.IsConflict(err):
		// It may have come about all the same. The round is used up: whether a
		// gateway ended it meanwhile, an agent that has restarted does not know.
		f.c.Log.Warn("freeze", slog.String("pod", k.String()), slog.Any("error", err))
	}
	s.frost.asked = time.Time{}
	return refreeze, nil
}

// mayFreeze is the round to freeze the pod in; 0: not now, but perhaps after
// wait.
func (f *Fleet) mayFreeze(p *corev1.Pod) (round uint64, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, served := f.functions[functionOf(p)].served(p.UID)
	switch {
	case !served || s.draining:
		return 0, 0
	case !s.frost.pending:
		if s.endpoint.Frozen != 0 && !s.frost.still && !s.frost.unable {
			s.frost.asked = time.Time{} // the pause after a refusal or a thaw is over
			f.scale.Add(functionOf(p))
		}
		return 0, 0
	}
	now := time.Now()
	if left := f.c.Comeback - now.Sub(f.started); left > 0 {
		return 0, left
	}
	for g, since := range f.away {
		if left := absence - now.Sub(since); left > 0 {
			return 0, left
		}
		delete(f.away, g)
	}
	for st := range f.streams {
		if s.frost.leaves[st.gateway] != s.endpoint.Frozen {
			return 0, 0 // its leave brings us back
		}
	}
	s.frost.pending = false // one round, one call
	delete(f.asked, p.UID)
	return s.endpoint.Frozen, 0
}
