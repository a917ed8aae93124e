package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

const (
	lifetime   = 10 * 365 * 24 * time.Hour
	clockSlack = time.Hour // a host whose clock steps back must not lose its cluster
)

type pkiOptions struct {
	dir, server, node string
	addresses         []net.IP
}

// newPKICommand writes everything that the parts prove themselves with: authorities, certificates, kubeconfigs.
//
// It fills a folder that does not exist yet, so a half-written one never counts: the caller makes it beside and renames.
func newPKICommand() *cobra.Command {
	options := pkiOptions{}
	command := &cobra.Command{
		Use:  "pki",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return writePKI(options) },
	}
	flags := command.Flags()
	flags.StringVar(&options.dir, "dir", "", "folder to make")
	flags.StringVar(&options.server, "server", "", "URL of the API server")
	flags.StringVar(&options.node, "node", "", "name of the node, if there is one")
	flags.IPSliceVar(&options.addresses, "address", nil, "addresses that the API server and the node answer at")
	return command
}

func writePKI(options pkiOptions) error {
	if err := os.Mkdir(options.dir, 0o700); err != nil {
		return err
	}
	clients, err := newAuthority("specop-local")
	if err != nil {
		return err
	}
	proxies, err := newAuthority("specop-local-front-proxy")
	if err != nil {
		return err
	}
	accounts, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt":             encode(clients.certificate),
		"front-proxy-ca.crt": encode(proxies.certificate),
		"sa.key":             accounts,
	}
	for name, request := range map[string]struct {
		authority *authority
		subject   pkix.Name
		serving   bool
	}{
		"admin":                    {clients, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, false},
		"apiserver":                {clients, pkix.Name{CommonName: "kube-apiserver"}, true},
		"apiserver-kubelet-client": {clients, pkix.Name{CommonName: "apiserver", Organization: []string{"system:masters"}}, false},
		"front-proxy-client":       {proxies, pkix.Name{CommonName: "front-proxy-client"}, false},
		"kubelet":                  {clients, pkix.Name{CommonName: "kubelet"}, true},
	} {
		var addresses []net.IP
		if request.serving {
			addresses = options.addresses
		}
		certificate, key, err := request.authority.issue(request.subject, addresses)
		if err != nil {
			return err
		}
		files[name+".crt"], files[name+".key"] = certificate, key
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(options.dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return writeKubeconfigs(options, clients)
}

func writeKubeconfigs(options pkiOptions, clients *authority) error {
	users := map[string]pkix.Name{
		"admin":              {CommonName: "admin", Organization: []string{"system:masters"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":         {CommonName: "system:kube-proxy"},
	}
	if options.node != "" {
		users["kubelet"] = pkix.Name{CommonName: "system:node:" + options.node, Organization: []string{"system:nodes"}}
	}
	for user, subject := range users {
		certificate, key, err := clients.issue(subject, nil)
		if err != nil {
			return err
		}
		config := clientcmdapi.NewConfig()
		config.Clusters["local"] = &clientcmdapi.Cluster{
			Server: options.server, CertificateAuthorityData: encode(clients.certificate),
		}
		config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
		config.Contexts["local"] = &clientcmdapi.Context{Cluster: "local", AuthInfo: user}
		config.CurrentContext = "local"
		if err := clientcmd.WriteToFile(*config, filepath.Join(options.dir, user+".kubeconfig")); err != nil {
			return err
		}
	}
	return nil
}

// authority signs certificates; its own key is never written, because nothing is issued after the cluster is made.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := cert.NewSelfSignedCACert(cert.Config{CommonName: name, NotBefore: time.Now().Add(-clockSlack)}, key)
	return &authority{certificate, key}, err
}

// issue makes a client certificate, which also serves the addresses that are given.
func (a *authority) issue(subject pkix.Name, addresses []net.IP) (certificatePEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    time.Now().Add(-clockSlack),
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IPAddresses:  addresses,
	}
	if len(addresses) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key of %s: %w", subject.CommonName, err)
	}
	return encode(parsed), keyPEM, nil
}

func encode(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: certificate.Raw})
}
