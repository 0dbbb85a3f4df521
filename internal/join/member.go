package join

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
)

// Member is one of the servers that keep their embedded stores together.
type Member struct {
	Name    string `json:"name,omitempty"` // of its node; "" when it has never told
	Address string `json:"address"`
	Leads   bool   `json:"leads,omitempty"`
	Status  string `json:"status"`
	Version string `json:"version,omitempty"` // of one that runs
}

// What a Member is.
const (
	MemberReady   = "Ready"
	MemberSyncing = "Syncing" // it runs, and lacks copies of what the others have
	MemberJoining = "Joining" // it has no vote yet
	MemberLost    = "Lost"    // it does not run
)

// MembersPath is the path of the members, below a server's URL.
const MembersPath = "/podsnap/v1/members"

// Newcomer is a server that wants to be a member.
type Newcomer struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	NATS    string `json:"nats,omitempty"` // what its NATS is called, as none was before
	Version string `json:"version,omitempty"`
}

// AskMembers asks the server at url for the members.
func AskMembers(ctx context.Context, client *http.Client, server string) ([]Member, error) {
	var out []Member
	err := send(ctx, client, http.MethodGet, server+MembersPath, nil, &out)
	return out, err
}

// EnterMember has a server be taken in, and answers with the addresses of all members.
func EnterMember(ctx context.Context, client *http.Client, server string, n Newcomer) ([]string, error) {
	var out []string
	err := send(ctx, client, http.MethodPost, server+MembersPath, n, &out)
	return out, err
}

// PromoteMember gives a server that is in step its vote.
func PromoteMember(ctx context.Context, client *http.Client, server string, n Newcomer) error {
	return send(ctx, client, http.MethodPut, server+MembersPath, n, nil)
}

// RemoveMember takes a server out, by its name or address.
func RemoveMember(ctx context.Context, client *http.Client, server, name string) error {
	return send(ctx, client, http.MethodDelete, server+MembersPath+"/"+url.PathEscape(name), nil, nil)
}

func send(ctx context.Context, client *http.Client, method, to string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, to, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if out == nil {
		out = new(json.RawMessage)
	}
	return do(client, req, out)
}
