package main

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/join"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func certificates(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return out, nil
}

func (o *options) tokenCmd() *cobra.Command {
	a := &admin{}
	cmd := &cobra.Command{
		Use: "token", Short: "Tokens with which machines join the cluster",
		Example: "  sudo faas token create\n  sudo faas token list\n  sudo faas token delete 0123456789ab",
	}
	a.flags(cmd)
	cmd.AddCommand(o.tokenCreate(a), o.tokenList(a), o.tokenDelete(a))
	return cmd
}

func (o *options) tokenCreate(a *admin) *cobra.Command {
	var life time.Duration
	var reusable bool
	cmd := &cobra.Command{
		Use: "create", Short: "Make a token and print it", Args: cobra.NoArgs,
		Long: `Makes a token with which one machine may join the cluster, within an hour, and
prints it. What is stored of it is a digest: it can't be shown again.`,
		Example: "  sudo faas token create\n  sudo faas token create --ttl 24h --reusable     # for a row of machines",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if life <= 0 || life > 365*24*time.Hour {
				return usagef("--ttl %s: it must be more than nothing and at most a year", life)
			}
			objects, server, ca, err := a.open()
			if err != nil {
				return err
			}
			t := join.NewToken(ca)
			s := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: join.SecretPrefix + t.ID},
				Type:       join.SecretType,
				Data: map[string][]byte{
					join.KeyHash: []byte(t.Hash()), join.KeyExpires: []byte(time.Now().Add(life).UTC().Format(time.RFC3339)),
				},
			}
			if reusable {
				s.Data[join.KeyReusable] = []byte("true")
			}
			if _, err := api.Create(cmd.Context(), objects, s); err != nil {
				return fmt.Errorf("store the token: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			if u, err := url.Parse(server); err == nil && isLoopback(u.Hostname()) {
				say(cmd, "this server's API answers on this machine only: start it with --api-listen 0.0.0.0:6443, then, on the other machine:\n  sudo faas agent join https://ADDRESS-OF-THIS-MACHINE:%s --token %s", cmp.Or(u.Port(), "6443"), t)
			} else {
				say(cmd, "on the machine that is to join, within %s:\n  sudo faas agent join %s --token %s", life, server, t)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&life, "ttl", time.Hour, "how long it may be used")
	cmd.Flags().BoolVar(&reusable, "reusable", false, "for any number of machines (default: for one)")
	return cmd
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tokenInfo is what is known of a token.
type tokenInfo struct {
	ID       string    `json:"id"`
	Expires  time.Time `json:"expires"`
	Reusable bool      `json:"reusable"`
}

func (o *options) tokenList(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the tokens that may still be used", Args: cobra.NoArgs,
		Example: "  sudo faas token list\n  sudo faas token list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.short)
			if err != nil {
				return err
			}
			defer cancel()
			secrets, err := api.Items[*corev1.Secret](ctx, objects, api.Secrets, api.ListOptions{Namespace: api.SystemNamespace})
			if err != nil {
				return err
			}
			out := []tokenInfo{}
			for _, s := range secrets {
				until, err := time.Parse(time.RFC3339, string(s.Data[join.KeyExpires]))
				if string(s.Type) == join.SecretType && err == nil && time.Now().Before(until) {
					out = append(out, tokenInfo{strings.TrimPrefix(s.Name, join.SecretPrefix), until, string(s.Data[join.KeyReusable]) == "true"})
				}
			}
			slices.SortFunc(out, func(a, b tokenInfo) int { return cmp.Compare(a.ID, b.ID) })
			return o.print(cmd.OutOrStdout(), out, func(w io.Writer) {
				fmt.Fprintln(w, "ID\tEXPIRES\tFOR")
				for _, i := range out {
					use := "one machine"
					if i.Reusable {
						use = "any number"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", i.ID, i.Expires.Local().Format(time.DateTime), use)
				}
			})
		},
	}
}

func (o *options) tokenDelete(a *admin) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID…", Aliases: []string{"rm"}, Short: "Delete tokens, so that nobody joins with them any more", Args: cobra.MinimumNArgs(1),
		Example: "  sudo faas token delete 0123456789ab",
		RunE: func(cmd *cobra.Command, args []string) error {
			objects, ctx, cancel, err := a.begin(cmd, o.short)
			if err != nil {
				return err
			}
			defer cancel()
			var errs []error
			for _, id := range args {
				if t, err := join.Parse(id); err == nil {
					id = t.ID
				}
				_, err := objects.Delete(ctx, api.Secrets, api.SystemNamespace, join.SecretPrefix+id, api.DeleteOptions{})
				switch {
				case apierrors.IsNotFound(err):
					errs = append(errs, fmt.Errorf("there is no token %s; `faas token list` shows those that are", id))
				case err != nil:
					errs = append(errs, fmt.Errorf("delete token %s: %w", id, err))
				default:
					say(cmd, "token %s is deleted", id)
				}
			}
			return errors.Join(errs...)
		},
	}
}
