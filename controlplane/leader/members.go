package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podsnap/podsnap/internal/pause"
)

// Members are the servers that run, each with a key of its own under a lease.
type Members struct {
	client *clientv3.Client
	prefix string
	self   Server
	log    *slog.Logger
}

// memberTTL is how long a server that is silent is listed, and its name taken.
const memberTTL = 15 * time.Second

// NewMembers makes the list below prefix, for one of them.
func NewMembers(client *clientv3.Client, prefix string, self Server, log *slog.Logger) *Members {
	return &Members{client, prefix, self, log}
}

// ErrNameTaken is Enter's error when another server of the same name runs.
var ErrNameTaken = errors.New("another server of this name runs")

// Enter lists this server until Run ends. Its error is ErrNameTaken or etcd's.
func (m *Members) Enter(ctx context.Context) (clientv3.LeaseID, error) {
	key := m.prefix + m.self.Name
	value, err := json.Marshal(m.self)
	if err != nil {
		return 0, err
	}
	resp, err := m.client.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	was := int64(0)
	if len(resp.Kvs) > 0 {
		var other Server
		was = resp.Kvs[0].ModRevision
		if err := json.Unmarshal(resp.Kvs[0].Value, &other); err == nil && other.ID != m.self.ID {
			return 0, fmt.Errorf("%w at %s", ErrNameTaken, other.URL)
		}
	}
	lease, err := m.client.Grant(ctx, int64(memberTTL/time.Second))
	if err != nil {
		return 0, err
	}
	done, err := m.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", was)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID))).Commit()
	if err == nil && !done.Succeeded {
		err = ErrNameTaken
	}
	return lease.ID, err
}

// Run keeps this server listed, since Enter has given it lease, until ctx is done;
// nil then.
func (m *Members) Run(ctx context.Context, lease clientv3.LeaseID) error {
	for pause.For(ctx, memberTTL/3) {
		short, cancel := context.WithTimeout(ctx, memberTTL/3)
		if _, err := m.client.KeepAliveOnce(short, lease); err != nil {
			if again, err := m.Enter(short); err == nil {
				lease = again
			} else if ctx.Err() == nil {
				m.log.Debug("not listed among the servers", slog.Any("error", err))
			}
		}
		cancel()
	}
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = m.client.Revoke(short, lease) // else it ends by itself
	return nil
}

// List answers with the servers that run, by name.
func (m *Members) List(ctx context.Context) ([]Server, error) {
	resp, err := m.client.Get(ctx, m.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	out := make([]Server, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var s Server
		if err := json.Unmarshal(kv.Value, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// Claim makes a key with a value, unless it is there, and tells whether that is its
// value.
func Claim(ctx context.Context, client *clientv3.Client, key, value string) (bool, error) {
	resp, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || resp.Succeeded {
		return err == nil, err
	}
	kvs := resp.Responses[0].GetResponseRange().Kvs
	return len(kvs) > 0 && string(kvs[0].Value) == value, nil
}
