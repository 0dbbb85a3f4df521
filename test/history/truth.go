package history

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
)

// Truth is what etcd says has happened to the objects of a history after a revision.
// It is asked when nobody writes any more, and before anything was compacted.
func Truth(ctx context.Context, etcd *clientv3.Client, from string) (out []Event, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rev, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the revision: %w", err)
	}
	const prefix, end = "/registry/core/configmaps/" + Namespace + "/", "/history/end"
	last, err := etcd.Put(ctx, end, "")
	if err != nil {
		return nil, fmt.Errorf("mark the end: %w", err)
	}
	for r := range etcd.Watch(ctx, "/", clientv3.WithPrefix(), clientv3.WithRev(rev+1), clientv3.WithPrevKV()) {
		if r.Err() != nil {
			return nil, fmt.Errorf("the account of etcd: %w", r.Err())
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision >= last.Header.Revision {
				return out, nil
			}
			name := path.Base(string(e.Kv.Key))
			if string(e.Kv.Key) != prefix+name {
				continue
			}
			told, err := told(e, name)
			if err != nil {
				return nil, err
			}
			out = append(out, told)
		}
	}
	return nil, errors.New("the account of etcd ended")
}

func told(e *clientv3.Event, name string) (Event, error) {
	it, kv := Event{Rev: e.Kv.ModRevision, Type: api.Modified, Key: name}, e.Kv
	switch {
	case e.Type == clientv3.EventTypeDelete:
		it.Type, kv = api.Deleted, e.PrevKv
	case e.IsCreate():
		it.Type = api.Added
	}
	obj, err := rules.Restore(api.ConfigMaps, kv.Value)
	if err != nil {
		return Event{}, fmt.Errorf("%s in etcd: %w", name, err)
	}
	if cm, ok := obj.(*corev1.ConfigMap); ok {
		it.Value = cm.Data["v"]
	}
	return it, nil
}
