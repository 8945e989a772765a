// No validator: it would send the description to a server of somebody else's.
SwaggerUIBundle({url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});
